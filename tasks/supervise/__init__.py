"""Starting, watching and ending processes, and the small files they leave. No Prefect, no torch.

    trees     the supervisor's side: start a process, see how it ended, stop it with all its descendants
    watch     the supervised side: keep a heartbeat, hear a request to stop, notice a dead parent
    peers     a child that answers framed messages and can be killed at a deadline
    records   files between the two: JSON replaced atomically, exit record, heartbeat

Services, jobs, the processes of one training run and the verifier pool are all supervised with these.
"""
