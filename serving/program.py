"""How every program ends: 0 when done, 1 for an artefact, 2 for a setting, each with one line on standard error."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from serving.errors import ArtefactError, ServiceError, SettingError
from serving.logs import hide_secrets

Main = Callable[[Sequence[str], Mapping[str, str]], None]


def run_program(main: Main) -> None:
    """Run `main(argv, environ)` and leave with its exit code."""
    sys.exit(_run(main))


def run_server(main: Main) -> None:
    """The same for a server: SIGTERM ends it with 0 from the first moment on, and no busy thread holds its end back."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 of a container would ignore it otherwise
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines are not JSON and have addresses in them
    code = _run(main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # sys.exit would wait for every thread


def _run(main: Main) -> int:
    try:
        main(sys.argv[1:], os.environ)
    except SettingError as error:
        return _tell(2, str(error))
    except (ArtefactError, ServiceError) as error:
        return _tell(1, str(error))
    except KeyboardInterrupt:
        return _tell(130, "stopped")
    return 0


def _tell(code: int, sentence: str) -> int:
    print(f"error: {hide_secrets(' '.join(sentence.split()))}", file=sys.stderr)  # noqa: T201
    return code
