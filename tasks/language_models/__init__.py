"""Language models that curation asks: refiner, judge and writer of general data (paper B.3.2, B.3.3, B.2).

In the paper all three are DeepSeek-V3. Here each is a setting (`settings.py`):

    refiner: lexicon                                               a rule stand-in of the tiny world
    refiner: {name: endpoint, url: https://HOST/v1, model: NAME, key: MY_API_KEY}
                                                                   any OpenAI-compatible server
    refiner: {name: checkpoint, artifact: DIGEST}                  a checkpoint of the store

A stage opens it with `opening.open_model`, asks batches of `chat.ChatRequest` and gets a `chat.ChatAnswer`
for each, in order. Answers are kept by the hash of their request (`cache.py`): a restart asks nothing twice.
"""
