"""The line that says why, from real output of commands and from Prefect's words for the end of a run."""

import pytest

from flows.last_words import last_words, plain_reason

BOX = """Usage: prefect deploy [OPTIONS]
Try 'prefect deploy --help' for help.
╭─ Error ──────────────────────────────────────────────╮
│ Unable to read the config file: prefect.yaml has no  │
│ deployments.                                         │
╰──────────────────────────────────────────────────────╯
"""
START = """
 ___ ___ ___ ___ ___ ___ _____
| _ \\ _ \\ __| __| __/ __|_   _|

Configure Prefect to communicate with the server with:

    prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api

Check out the dashboard at http://127.0.0.1:4200
"""
TRACEBACK = """Traceback (most recent call last):
  File "x.py", line 3, in <module>
    open("y")
OSError: [Errno 28] No space left on device: 'y'
"""


BOXED = "Unable to read the config file: prefect.yaml has no deployments."
FULL = "OSError: [Errno 28] No space left on device: 'y'"
PORT = "Port 4200 is already in use. Please specify a port."


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (BOX, BOXED),
        ("\x1b[31m" + BOX + "\x1b[0m\n\n", BOXED),
        ("┏━━━━┓\n┃ no ┃\n┗━━━━┛", "no"),
        (TRACEBACK, FULL),
        (TRACEBACK + START, FULL),
        (PORT + "\n\n", PORT),
        ("one\ntwo\n", "two"),
        ("╭────╮\n╰────╯\n", ""),
        ("\n \n", ""),
        ("", ""),
    ],
)
def test_the_telling_line_of_an_output_is_found(output, words):
    assert last_words(output) == words


def test_a_greeting_is_not_why_a_program_ended():
    assert last_words(START, failed=False) == ""
    assert last_words(TRACEBACK + START, failed=False) == FULL


KILLED, STOPPED = "its process was killed (SIGKILL)", "its process was stopped (SIGTERM)"
FRAME = "Flow run encountered an exception: "


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (FRAME + "JobFailed: dev1: no room (log: /x)", "dev1: no room (log: /x)"),
        (FRAME + "StageFailed: dev1: was killed by SIGKILL", "dev1: was killed by SIGKILL"),
        ("Flow run process exited with non-zero status code -9.", KILLED),
        (
            "Process exited with status code: -9. Process exited due to a SIGKILL signal. Typically caused "
            "by the operating system terminating the process for exceeding memory limits, or by manual "
            "cancellation.",
            KILLED,
        ),
        ("Process exited with status code: -15. Process exited due to a SIGTERM signal.", STOPPED),
        ("Execution was aborted by Python system exit call.", "its process ended before the flow did"),
        ("Execution was aborted by a termination signal.", STOPPED),
        ("Execution was aborted by an interrupt signal.", "its process was interrupted (SIGINT)"),
        ("Execution was interrupted by an unexpected exception: OSError: x\n\nmore", "OSError: x more"),
        ("no heartbeat: its machine is lost", "no heartbeat: its machine is lost"),
        ("", ""),
    ],
)
def test_a_reason_is_one_line_without_prefects_words(message, reason):
    assert plain_reason(message) == reason


def test_a_process_that_could_not_start_points_to_the_log(home):
    reason = plain_reason("Process exited with status code: 1. Process exited with a general error.")
    assert reason == f"its process ended with code 1 ({home}/logs/workers.log has its output)"
