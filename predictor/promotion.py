"""A finished training -> a version in the model registry, and the alias when it is not worse than the one before."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Registered:
    """The new version, and what became of the alias."""

    reference: str
    sentence: str


def register(client: "MlflowClient", run_id: str, name: str, alias: str, val_loss: float) -> Registered:
    """Make a version of the run's head; move `alias` to it unless the version that has it has a lower val_loss."""
    run = client.get_run(run_id)
    _make_model(client, name)
    made = client.create_model_version(name, run.info.artifact_uri, run_id, tags={"val_loss": f"{val_loss:.6f}"})
    reference = f"models:/{name}/{made.version}"
    if not alias:
        return Registered(reference, f"{reference} is registered with val_loss {val_loss:.4f}")
    champion = _find_champion(client, name, alias)
    loss = champion.data.metrics.get("val_loss", math.inf) if champion else math.inf
    if val_loss > loss:
        apart = "" if champion.data.tags.get("data") == run.data.tags.get("data") else ", though on other data"
        return Registered(
            reference,
            f"{alias} stays where it is: {reference} has val_loss {val_loss:.4f}, "
            f"which is worse than {loss:.4f} of the run {champion.info.run_id}{apart}",
        )
    client.set_registered_model_alias(name, alias, made.version)
    return Registered(reference, f"{alias} is now {reference}, with val_loss {val_loss:.4f}")


def _make_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find_champion(client: "MlflowClient", name: str, alias: str) -> Any:
    """The run behind the alias; None when there is no alias, or its run is gone."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = client.get_model_version_by_alias(name, alias).run_id
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
