"""`python -m predictor.export`: a CLIP and a head -> one folder for both engines, checked before it is there."""

import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from contract import CONTRACT_VERSION, RESIZE_BICUBIC, ClipMark
from predictor.agreement import compare, draw_noise, predict_all
from predictor.engine import Engine
from predictor.export_settings import PREFIX, ExportSettings
from predictor.exported import INT8_FILES, ONNX_FILE, Exported, hash_file, write_exported
from predictor.head import ARGUMENTS_FILE, LABELS_FILE, MARK_FILE, WEIGHTS_FILE
from predictor.held_out import check_held_out, open_index
from predictor.hub import find_weights
from predictor.model import TorchEngine
from predictor.onnx_graph import write_onnx
from predictor.openvino import load_engine, read_property
from predictor.pictures import Pictures, read_pictures
from predictor.precision import (
    WORTHWHILE,
    Engines,
    choose_precision,
    compile_candidates,
    describe,
    is_exact,
    is_near,
    list_candidates,
    measure,
)
from predictor.quantisation import check_nncf, quantise
from predictor.report import held_out_table, table, write_report
from predictor.settings import ON_CPU
from predictor.source import Source, open_source
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import load_settings

PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "openvino", "numpy")
HEAD_FILES = (ARGUMENTS_FILE, WEIGHTS_FILE, LABELS_FILE, MARK_FILE)
WEIGHTS_SUFFIXES = {".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".pt", ".pth"}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings, export, show what was measured."""
    settings = load_settings(ExportSettings, "python -m predictor.export", PREFIX, argv, environ)
    exported = export(settings)
    for line in (*table(exported), *held_out_table(exported)):
        print(line)  # noqa: T201
    if not exported.usable:
        raise ArtefactError(
            f"{exported.precision} is below --min_cosine or --min_same_top, so {settings.output} is marked as not "
            "usable; take another --precision, or more and more typical pictures"
        )
    if settings.precision == "auto":
        print(f"auto: the fastest that agrees, and fp32 unless another is {WORTHWHILE - 1:.0%} faster")  # noqa: T201
    print(f"{exported.precision} exported to {settings.output}")  # noqa: T201


def export(settings: ExportSettings) -> Exported:
    """Make the folder, whole or not at all; raises ArtefactError when its answers are not those of torch."""
    candidates = list_candidates(settings.precision, calibrated=bool(settings.calibration))
    if "int8" in candidates:
        check_nncf()
    threads = settings.cpu_threads
    with _drafted(Path(settings.output)) as draft, open_source(settings, threads, ON_CPU) as source:
        pictures = _read_pictures(settings, source.engine) if settings.calibration else None
        _write_parts(source, draft)
        if pictures and "int8" in candidates:
            quantise(draft / ONNX_FILE, draft / INT8_FILES[0], pictures.calibration)
        form = _describe(source, [*PACKAGES, *(["nncf"] if "int8" in candidates else [])])
        engines = compile_candidates(draft, form, candidates, threads)
        form = replace(form, measured=measure(engines, source.engine))
        if pictures:
            form = _check_held_out(settings, form, engines, source.engine, pictures, draft)
        precision, usable = choose_precision(form.measured, settings.precision, form.failed)
        if precision != "int8":
            shutil.rmtree((draft / INT8_FILES[0]).parent, ignore_errors=True)
        exported = replace(form, precision=precision, usable=usable, files=_hash_files(draft))
        write_exported(exported, draft)
        if usable:
            # The quantised graph was held against torch above, and what is loaded must be the same.
            _check_again(draft, engines["int8"] if precision == "int8" else source.engine, threads)
    return exported


def _read_pictures(settings: ExportSettings, engine: TorchEngine) -> Pictures:
    turn, threads = _mark(engine).exif_orientation, settings.cpu_threads
    return read_pictures(settings.calibration, settings.image_root, engine.size, exif_orientation=turn, threads=threads)


def _write_parts(source: Source, draft: Path) -> None:
    _copy_clip(source.clip, draft / "clip")
    if source.head:
        _copy_head(source.head, draft / "head")
    write_onnx(source.engine.network, source.engine.size, draft / ONNX_FILE)


def _check_held_out(
    settings: ExportSettings, form: Exported, engines: Engines, reference: TorchEngine, pictures: Pictures, draft: Path
) -> Exported:
    """Add what the held-out pictures show, and write it down for people."""
    index = open_index(settings.index_dir, reference.clip.fingerprint) if settings.index_dir else None
    reduced: Engines = {name: engine for name, engine in engines.items() if name != "fp32"}
    checks = check_held_out(reduced, reference, pictures.held_out, index)
    calibrated_with = len(pictures.calibration) if "int8" in engines else 0
    found = tuple(check.found for check in checks)
    form = replace(form, calibrated_with=calibrated_with, thresholds=settings.thresholds, held_out=found)
    write_report(form, checks, draft)
    return form


@contextmanager
def _drafted(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name when all went well, and is gone when not."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as workspace:
            draft = Path(workspace, output.name)
            draft.mkdir()  # with the usual permissions: the workspace is for its owner only
            yield draft
            draft.rename(output)
    except OSError as error:
        raise ArtefactError(f"--output: {output} cannot be written: {error.strerror or error}") from error


def _copy_clip(source: Path, target: Path) -> None:
    """Copy the Hugging Face directory, less hidden files and weights for other frameworks."""
    weights = find_weights(source) or ""
    kept = ".safetensors" if ".safetensors" in weights else ".bin"
    for path in sorted(source.iterdir()):
        foreign = path.suffix in WEIGHTS_SUFFIXES - {kept}
        if path.is_file() and not foreign and not path.name.startswith("."):
            _copy(path, target)


def _copy_head(source: Path, target: Path) -> None:
    for name in HEAD_FILES:
        if (source / name).exists():
            _copy(source / name, target)


def _copy(path: Path, folder: Path) -> None:
    """Copy the content only: weights are often readable by their owner alone, and a pod is somebody else."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / path.name)


def _describe(source: Source, packages: Sequence[str]) -> Exported:
    """export.json as far as it is known before measuring."""
    engine = source.engine
    return Exported(
        contract=CONTRACT_VERSION,
        mark=_mark(engine),
        resize=RESIZE_BICUBIC,
        size=engine.size,
        dim=engine.dim,
        classes=engine.classes,
        precision="fp32",
        head=source.reference,
        processor=read_property("FULL_DEVICE_NAME"),
        measured=(),
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        files={},
    )


def _mark(engine: TorchEngine) -> ClipMark:
    """The head's, since it knows the CLIP's name; an unmarked head was trained without EXIF orientation."""
    return (engine.head and engine.head.mark) or engine.clip.mark(exif_orientation=False)


def _hash_files(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hash_file(path) for path in files}


def _check_again(directory: Path, reference: Engine, threads: int) -> None:
    """Load the folder as the server will, and hold its answers against the reference on pictures not seen yet."""
    pixels = draw_noise(reference.size, seed=1)
    engine = load_engine(directory, threads)
    agreement = compare(predict_all(engine, pixels), predict_all(reference, pixels))
    agrees = is_exact if engine.precision in ("fp32", "int8") else is_near
    if not agrees(agreement):
        raise ArtefactError(f"{engine.precision} does not give torch's answers: {describe(agreement)}")


if __name__ == "__main__":
    run_program(main)
