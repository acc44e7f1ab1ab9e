"""Wrong values of every kind of setting: the flag or variable is named, and what to write instead."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from predictor.settings import PredictorSettings
from serving.errors import SettingError
from serving.program import run_program
from serving.settings import load_settings
from transformer.download import Downloader, FetchLimits
from transformer.embed_settings import EmbedSettings
from transformer.settings import TransformerSettings


def load(cls: type[Any], argv: Sequence[str], environ: Mapping[str, str]) -> Any:
    return load_settings(cls, "program", "DOG_", argv, environ)


WRONG: dict[str, tuple[type[Any], str, str]] = {
    "whole number": (PredictorSettings, "max_batch=eight", "invalid literal for int"),
    "fraction for a whole number": (PredictorSettings, "max_batch=8.5", "invalid literal for int"),
    "too little": (PredictorSettings, "max_queue=0", "use 1 or more"),
    "too much for a machine's number": (PredictorSettings, "max_body_bytes=3000000000", "use 2147483647 or less"),
    "seconds": (PredictorSettings, "request_timeout=10s", "could not convert string to float"),
    "no seconds": (PredictorSettings, "request_timeout=0", "use 0.01 or more"),
    "seconds of NaN": (PredictorSettings, "grace_seconds=nan", "use 0 or more"),
    "endless seconds": (PredictorSettings, "request_timeout=inf", "use 1000000 or less"),
    "an endless age": (PredictorSettings, "max_connection_age_seconds=inf", "use 1000000 or less"),
    "an endless drain": (PredictorSettings, "drain_seconds=1e300", "use 1000000 or less"),
    "port": (PredictorSettings, "grpc_port=-1", "use a port from 0 (any free one) to 65535"),
    "port of text": (PredictorSettings, "metrics_port=http", "invalid literal for int"),
    "switch": (PredictorSettings, "allow_unmarked=perhaps", "use on or off"),
    "level": (PredictorSettings, "log_level=loud", "use debug, info, warning or error"),
    "name": (PredictorSettings, "model_name=", "use a name without a slash"),
    "word of a list": (PredictorSettings, "engine=onnx", "use auto, torch or openvino"),
    "registered model": (PredictorSettings, "mlflow_model=doggos", "use models:/NAME@ALIAS or models:/NAME/VERSION"),
    "run": (PredictorSettings, "mlflow_run=../x", "use the id that MLflow gave the run"),
    "network": (TransformerSettings, "allow_networks=10.0.0.0/8,dogs", "'dogs' does not appear to be"),
    "network with bits behind it": (TransformerSettings, "allow_networks=10.0.0.1/8", "has host bits set"),
    "protocol": (TransformerSettings, "predictor_protocol=v1", "use v2 or grpc-v2"),
    "share": (EmbedSettings, "shard=4/4", "use i/n with i from 0 to n-1"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_wrong_value_is_named_with_what_to_write(name: str, by: str) -> None:
    cls, text, fix = WRONG[name]
    field, _, value = text.partition("=")
    argv = ["images"] if cls is EmbedSettings else []
    given = [f"--{field}", value] if by == "flag" else []
    source = f"--{field}" if by == "flag" else f"DOG_{field.upper()}"
    with pytest.raises(SettingError, match=re.escape(fix)) as error:
        load(cls, [*argv, *given], {} if given else {f"DOG_{field.upper()}": value})
    assert str(error.value).startswith(f"{source}: '{value}' cannot be used: ")


@pytest.mark.parametrize(
    ("cls", "argv", "sentence"),
    [
        (PredictorSettings, ["--max_batch"], "argument --max_batch: expected one argument (see program --help)"),
        (PredictorSettings, ["--max_bat", "8"], "unrecognized arguments: --max_bat (see program --help)"),
        (PredictorSettings, ["model"], "unrecognized arguments: model"),
        (PredictorSettings, ["--http_port", "81", "--metrics_port", "81"], "--grpc_port and --metrics_port must"),
        (PredictorSettings, ["--mlflow_run", "a"], "--mlflow_run: name the MLflow that has it with --mlflow_uri"),
        (PredictorSettings, ["--mlflow_uri", "x"], "--mlflow_uri: name a head there with"),
        (PredictorSettings, ["--model_dir", ""], "--model_dir: name the folder that holds clip/"),
        (PredictorSettings, ["--repository_token", "short"], "--repository_token: a token is 16 to 512 letters"),
        (TransformerSettings, ["--predictor_host", "a", "--url_template", "http://x/"], "it must contain {path}"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_named(cls: type[Any], argv: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=re.escape(sentence)):
        load(cls, argv, {})


def test_a_flag_wins_and_an_empty_variable_is_a_value() -> None:
    environ = {"DOG_MAX_BATCH": "3", "DOG_PAGE": "off", "DOG_HOST": ""}
    assert load(PredictorSettings, ["--max_batch", "4"], environ).max_batch == 4
    settings = load(TransformerSettings, ["--predictor_host", "a"], environ)
    assert (settings.page, settings.host) == (False, "")
    with pytest.raises(SettingError, match="DOG_HTTP_PORT: '' cannot be used"):
        load(PredictorSettings, [], {"DOG_HTTP_PORT": ""})


@pytest.mark.parametrize("setting", ["proxy", "ca_file"])
def test_what_only_the_downloader_can_judge_names_its_flag(setting: str) -> None:
    flag = {"proxy": "--egress_proxy: give it as http://HOST:PORT", "ca_file": "--ca_file: nowhere cannot be read"}
    with pytest.raises(SettingError, match=flag[setting]):
        Downloader(FetchLimits(), **{setting: "nowhere"})  # type: ignore[arg-type]


def test_the_last_line_of_a_program_hides_what_its_urls_hide(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: Sequence[str], environ: Mapping[str, str]) -> None:
        raise SettingError("http://user:s3cr3t@h/x?token=s3cr3t cannot be reached")

    with pytest.raises(SystemExit):
        run_program(fail)
    assert capsys.readouterr().err == "error: http://h/x cannot be reached\n"
