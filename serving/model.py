"""The KServe model that both servers register: its states, its tensors and its one verb, infer."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from importlib.metadata import version as version_of
from typing import Any, Generic, TypeVar

from kserve import Model

from serving.call import Call
from serving.errors import InvalidRequest, NotReady, UnknownModel
from serving.slot import Slot
from serving.v2 import MAX_VALUES, InferRequest, InferResponse, Tensor, TensorSpec

Loaded = TypeVar("Loaded")


class State(Enum):
    """LOADING and UNLOADED refuse work, DRAINING still serves but tells the probes to send no more."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    UNLOADED = "unloaded"


_SAID = {State.LOADING: "still loading", State.UNLOADED: "unloaded, until it is loaded again"}


class V2Model(Model, Generic[Loaded]):  # type: ignore[misc]
    """A model that speaks the protocol's own types; KServe's routes ask it for health and metadata."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.slot: Slot[Loaded] = Slot()
        self._state = State.LOADING
        self._watchers: list[Callable[[bool], None]] = []

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        for watcher in self._watchers:
            watcher(state is State.SERVING)

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Have `watcher` told, at every change, whether the model is ready."""
        self._watchers.append(watcher)

    @property
    @abstractmethod
    def input_specs(self) -> Sequence[TensorSpec]: ...

    @property
    @abstractmethod
    def output_specs(self) -> Sequence[TensorSpec]: ...

    @property
    def max_values(self) -> int:
        """Most values of a request that are not raw."""
        return MAX_VALUES

    @abstractmethod
    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """Answer one request; raises ServiceError."""

    async def healthy(self) -> bool:
        return self.state is State.SERVING

    def get_input_types(self) -> list[dict[str, Any]]:
        return [_describe(spec) for spec in self._specs(self.input_specs)]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [_describe(spec) for spec in self._specs(self.output_specs)]

    def _specs(self, specs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
        self.check_loaded()
        return specs

    @property
    def inference_paths(self) -> frozenset[str]:
        """Where it is asked over HTTP."""
        return frozenset({f"/v2/models/{self.name}/infer"})

    def check_room(self) -> None:
        """Raise QueueFull where it is known, before a request's body is parsed, that it will find a queue full."""

    def check_loaded(self) -> None:
        """Raise NotReady until the artefacts are loaded."""
        if self.state in (State.LOADING, State.UNLOADED):
            raise NotReady(f"model {self.name!r} is {_SAID[self.state]}")


def check_name(model: V2Model[Any], name: str) -> None:
    """Raise UnknownModel unless `name` is the served model's."""
    if name != model.name:
        raise UnknownModel(f"there is no model {name[:200]!r} here, only {model.name!r}")


def check_version(version: str) -> None:
    """Raise UnknownModel for any version: what the server was started with is served, without one."""
    if version:
        raise UnknownModel(f"there is no version {version[:200]!r} here: ask for the model without a version")


def describe_server() -> dict[str, Any]:
    """What the metadata of the server are, on both protocols."""
    return {"name": "kserve", "version": version_of("kserve"), "extensions": ["binary_tensor_data", "model_repository"]}


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def select_outputs(wanted: Sequence[str] | None, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs the caller asked for, in the caller's order."""
    if wanted is None:
        return list(outputs)
    named = {tensor.name: tensor for tensor in outputs}
    return [named[name] for name in wanted]


def check_inputs(inputs: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse unknown inputs, and more or fewer than one of `names`."""
    for name in inputs:
        if name not in names:
            raise InvalidRequest(f"unknown input {name!r}; use {' or '.join(map(repr, names))}")
    if len(inputs) != 1:
        raise InvalidRequest(f"give exactly one input: {' or '.join(map(repr, names))}")


def check_outputs(wanted: Sequence[str] | None, specs: Sequence[TensorSpec]) -> None:
    """Refuse an unknown output before any work is done."""
    known = [spec.name for spec in specs]
    for name in wanted or ():
        if name not in known:
            raise InvalidRequest(f"unknown output {name!r}; there are {', '.join(known)}")
