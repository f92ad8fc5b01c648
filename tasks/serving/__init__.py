"""Serving a checkpoint, and the paper's risk control in front of it (D.3.1).

    client --key--> proxy (proxy.py) --Unix socket--> model server (vLLM, or transformers on a CPU)
                      |
                      +-- risk_control.py: flagged dialogues are reviewed before they are shown

The model server (`model_server.py`) gets a folder with the chat template that the checkpoint was trained with
(`folder.py`) and listens on a socket in a folder that only its user can enter. `layout.py` takes the thinking
out of its answers. `r1 serve` runs all of it; `r1 chat` is a terminal in front of the model server alone.
"""
