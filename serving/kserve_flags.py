"""KServe's own flags, read without letting KServe parse our command line."""

import argparse
import sys


def kserve_flags() -> argparse.ArgumentParser:
    """The parser that KServe's model server uses.

    KServe parses ``sys.argv`` while it is imported, accepts abbreviations and prints its own usage on an error;
    it is shown an empty command line so that ours is judged by our rules only.
    """
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        from kserve.model_server import parser
    finally:
        sys.argv = argv
    return parser  # type: ignore[no-any-return]
