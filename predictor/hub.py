"""A CLIP's name -> the directory that holds it: a directory itself, the local cache, or the Hugging Face hub."""

import threading
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from serving.errors import ArtefactError

SETTINGS_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
_HUB_SECONDS = 8.0  # for the hub's first answer; the download itself may take longer


def find_clip(name: str | Path, cache_dir: Path | None = None) -> Path:
    """The directory of the CLIP `name`; a directory never touches the network.

    Raises ArtefactError, within 10 s when the model id is not cached and the hub cannot be reached.
    """
    directory = Path(name)
    if directory.is_dir():
        return directory
    if isinstance(name, Path) or directory.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ArtefactError(f"{name}: no such directory; give a Hugging Face directory or a model id as owner/name")
    return _cached(name, cache_dir) or _downloaded(name, cache_dir)


def find_weights(directory: Path) -> str | None:
    """The name of the weights file, or of the index of its parts."""
    names = [name for file in WEIGHTS_FILES for name in (file, f"{file}.index.json")]
    return next((name for name in names if (directory / name).exists()), None)


def _cached(model_id: str, cache_dir: Path | None) -> Path | None:
    try:
        snapshot = Path(snapshot_download(model_id, cache_dir=cache_dir, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise ArtefactError(f"{model_id}: neither a directory nor a model id of the form owner/name") from None
    complete = (snapshot / SETTINGS_FILES[0]).exists() and find_weights(snapshot)
    return snapshot if complete else None


def _downloaded(model_id: str, cache_dir: Path | None) -> Path:
    offered = _list_files(model_id)
    kind = "safetensors" if any(file.endswith(".safetensors") for file in offered) else "bin"
    wanted = [*SETTINGS_FILES, f"model*.{kind}*", f"pytorch_model*.{kind}*"]
    try:
        return Path(snapshot_download(model_id, cache_dir=cache_dir, allow_patterns=wanted))
    except Exception as error:  # whatever its HTTP library, its storage client and the disk raise
        raise ArtefactError(f"{model_id}: the download from the Hugging Face hub failed: {error}") from error


def _list_files(model_id: str) -> list[str]:
    """Ask the hub once, in a thread that may be left behind: no timeout bounds the lookup of a host name."""
    answers: list[list[str] | Exception] = []
    asking = threading.Thread(target=lambda: answers.append(_ask_hub(model_id)), daemon=True)
    asking.start()
    asking.join(_HUB_SECONDS)
    answer = answers[0] if answers else TimeoutError(f"no answer within {_HUB_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        reason = (str(answer).strip() or type(answer).__name__).splitlines()[0]
        raise ArtefactError(
            f"{model_id} is not in the local Hugging Face cache and the hub does not give it ({reason}); "
            "give a directory that holds it instead"
        ) from None
    return answer


def _ask_hub(model_id: str) -> list[str] | Exception:
    try:
        info = HfApi().model_info(model_id, timeout=_HUB_SECONDS)
    except Exception as error:  # for the thread that waits, which turns it into a sentence
        return error
    return [sibling.rfilename for sibling in info.siblings or []]
