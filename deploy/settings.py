"""What is deployed, where, and how long it may take."""

from dataclasses import dataclass

from serving.errors import SettingError
from serving.settings import at_least, one_of, setting


@dataclass(frozen=True)
class DeploySettings:
    """Install or upgrade a release, wait until its new pods serve, test it, and roll it back when any of that fails."""

    release: str = setting("", "the release's name, which is the InferenceService's too", positional=True)
    namespace: str = setting("doggos", "where it is installed; it must be there")
    chart: str = setting("helm", "folder or archive of the chart, or its oci:// address")
    values: str = setting("", "files of values, separated by commas; later ones win")
    set: str = setting("", "single values as helm takes them: a.b=1,c=2; they win over files")
    mlflow_uri: str = setting("", "MLflow's address as seen from here, to look up --mlflow_head")
    mlflow_head: str = setting("", "the head: models:/NAME@ALIAS, experiment:NAME (its best run), ..; looked up once")
    pin_file: str = setting("", "where the values with the head that was found are kept as well")
    rehearse: str = setting(
        "auto",
        "first install everything beside the release, as RELEASE-rehearsal, and test it there: on, off, or auto: when "
        "the model, the head or the index is another than the release has",
        parse=one_of("auto", "on", "off"),
    )
    timeout: float = setting(900.0, "seconds for the new pods to serve", parse=at_least(1, float))

    def __post_init__(self) -> None:
        if bool(self.mlflow_uri) != bool(self.mlflow_head):
            raise SettingError("--mlflow_uri and --mlflow_head belong together: give both or none")
        if self.pin_file and not self.mlflow_head:
            raise SettingError("--pin_file: there is nothing to pin without --mlflow_head")
