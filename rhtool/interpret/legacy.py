"""Reward networks of imitation and reward-function-interpretability, read from their `.pt` files without running any of them.

A `.pt` file is a zip with a pickle that names classes and functions to call. Here no name in it leads to code: the names of a
short list become inert records of what they were called with (`Record`), tensors become arrays, everything else is refused.
From the records a network of `nets.py` is built, whose files have no pickle.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.functions import Scaled, Shaped
from rhtool.interpret.potentials import LayeredPotential
from rhtool.interpret.rewards import RewardFunction

LARGEST = 2 << 30
"""bytes of a file, unpacked, at most"""

INERT = re.compile(
    r"(imitation|reward_preprocessing|reward_function_interpretability|gym\.spaces|gymnasium\.spaces|torch\.nn\.modules)(\.\w+)*:\w+"
    r"|numpy(\._?core)?\.multiarray:(_reconstruct|scalar)|numpy:(dtype|ndarray)|numpy\.random\.\w+:\w+"
    r"|torch:(Float|Double|Half|Int|Long|Short|Char|Byte|Bool)Storage|torch:Size"
    r"|torch\._utils:_rebuild_parameter|(builtins|__builtin__):(slice|bytearray)"
)
"""`module:name` of what becomes a `Record`"""

STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "IntStorage": "<i4", "LongStorage": "<i8",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


class Record:
    """What a class or function of the file would have been called with. It does nothing."""

    path = ""
    """`module:name` in the file"""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.state = args, {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {"state": state}

    def append(self, item: Any) -> None:
        """Of a list's subclass: forgotten."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Of a dict's subclass: forgotten."""

    @property
    def name(self) -> str:
        """Of the class."""
        return self.path.rpartition(":")[2]

    def part(self, name: str) -> Any:
        """An attribute, a submodule, a parameter or a buffer; None if there is none."""
        for place in (self.state, *(self.state.get(key) or {} for key in ("_modules", "_parameters", "_buffers"))):
            if name in place:
                return place[name]
        return None


class Reader(pickle.Unpickler):
    """An unpickler for which `INERT` and what is below are all the names there are."""

    def __init__(self, file: IO[bytes], arrays: dict[str, bytes], where: str):
        super().__init__(file)
        self.arrays, self.where = arrays, where

    def find_class(self, module: str, name: str) -> Any:
        """The only way from a name in the file to an object here."""
        path = f"{module}:{name}"
        own = {
            "collections:OrderedDict": OrderedDict,
            "builtins:set": set,
            "__builtin__:set": set,
            "_codecs:encode": _encode,
            "torch._utils:_rebuild_tensor_v2": _tensor,
        }
        if path in own:
            return own[path]
        if not INERT.fullmatch(path):
            what = f"the file wants {module}.{name}, which no reward network needs"
            raise RhtoolError(what, self.where, "do not trust who gave it to you; nothing of it was run")
        return type(name, (Record,), {"path": path})

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage: a flat array of the zip's bytes."""
        kind, storage, key, _, count = pid
        if kind != "storage" or getattr(storage, "__name__", "") not in STORAGES:
            raise ValueError(f"there is no storage {pid!r}")
        array = np.frombuffer(self.arrays[str(key)], STORAGES[storage.__name__])
        if len(array) < count:
            raise ValueError(f"storage {key} has {len(array)} numbers of {count}")
        return array


def _encode(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else offset - 1
    if offset < 0 or min(stride, default=0) < 0 or min(size, default=0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor {size} does not fit its storage")
    steps = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def read(path: str | Path) -> RewardFunction:
    """The reward function in a `.pt` file: BasicRewardNet and CnnRewardNet, plain, shaped (by an MLP) or normalised.

    Its observations are as imitation preprocesses them: a Discrete one is a one-hot. Raises `RhtoolError` for a file that names
    anything else, `ConfigError` for one that is damaged, or of another network.
    """
    where = str(path)
    try:
        return _function(_load(Path(path), where), where)
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(EOFError, OSError, RuntimeError, NotImplementedError, RecursionError, MemoryError, OverflowError),
    ) as error:
        if isinstance(error, RhtoolError):
            raise
        what = f"the file cannot be read ({type(error).__name__}: {error})"
        raise ConfigError(
            what, where, "give a reward network that imitation saved with torch.save, of torch 1.6 or later"
        ) from error


def _load(path: Path, where: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        names = archive.namelist()
        (main,) = (name for name in names if name.endswith("/data.pkl"))
        folder = main.removesuffix("data.pkl") + "data/"
        if any(name.endswith("/byteorder") and archive.read(name) != b"little" for name in names):
            raise ValueError("it is of a big-endian machine")
        arrays = {name.removeprefix(folder): archive.read(name) for name in names if name.startswith(folder)}
        with archive.open(main) as file:
            return Reader(file, arrays, where).load()


def _function(net: Any, where: str) -> RewardFunction:
    if not isinstance(net, Record):
        raise ValueError(f"it holds a {type(net).__name__}, no network")
    if net.name in ("ShapedRewardNet", "BasicShapedRewardNet"):
        potential = net.part("potential")
        if potential.part("_potential_net") is None or potential.name != "BasicPotentialMLP":
            raise ValueError(f"its potential is a {potential.name}, not a BasicPotentialMLP")
        layers, offset, scale = _dense(potential.part("_potential_net"))
        unit = _unit(net.part("_base"))
        base = _function(net.part("_base"), where)
        return Shaped(base, LayeredPotential(offset, scale * unit, layers), float(net.part("discount_factor")))
    if net.name == "NormalizedRewardNet":
        norm = net.part("normalize_output_layer")
        mean, variance = (float(norm.part(name).item()) for name in ("running_mean", "running_var"))
        return Scaled(_function(net.part("_base"), where), 1 / math.sqrt(variance + float(norm.part("eps"))), mean)
    if net.name in ("BasicRewardNet", "CnnRewardNet"):
        return _network(net)
    raise ValueError(f"it is a {net.name}, not a BasicRewardNet or CnnRewardNet, plain, shaped or normalised")


def _network(net: Record) -> RewardFunction:
    import torch

    from rhtool.interpret import nets

    uses = {"obs": "use_state", "action": "use_action", "next_obs": "use_next_state", "terminated": "use_done"}
    sees = [part for part, flag in uses.items() if net.part(flag)]
    shape, action = _shape(net.part("observation_space")), _action(net.part("action_space"))
    about = {"from": net.path}
    weights: dict[str, np.ndarray] = {}
    if net.name == "CnnRewardNet":
        layers = net.part("cnn").part("_modules")
        convolutions = [layer for name, layer in layers.items() if re.fullmatch(r"conv\d+", name)]
        last = bool(net.part("hwc_format"))
        hidden = [len(_parameter(layer.part("weight"))) for layer in convolutions]
        kernel, stride = (int(convolutions[0].part(name)[0]) for name in ("kernel_size", "stride"))
        made = nets.CnnReward(
            shape, action, sees, hidden=hidden, channels_last=last, kernel=kernel, stride=stride, about=about
        )
        for name in [*(n for n in layers if re.fullmatch(r"conv\d+", n)), "dense_final"]:
            weights |= {f"cnn.{name}.{k}": _parameter(layers[name].part(k)) for k in ("weight", "bias")}
    else:
        layers, offset, scale = _dense(net.part("mlp"))
        made = nets.MlpReward(shape, action, sees, hidden=[len(b) for _, b in layers[:-1]], slope=0.0, about=about)
        widths = [math.prod(shape), made.actions, math.prod(shape), 1]
        unit = np.concatenate(
            [
                np.full(w, _unit(net) if part.endswith("obs") else 1.0)
                for part, w in zip(uses, widths, strict=True)
                if part in sees
            ]
        )
        if len(unit) != len(offset):
            raise ValueError(f"its first layer takes {len(offset)} numbers, observation and action have {len(unit)}")
        weights |= {"offset": offset / unit, "scale": scale * unit, "columns": np.arange(math.prod(shape))}
        names = [*(f"dense{i}" for i in range(len(layers) - 1)), "dense_final"]
        for name, (weight, bias) in zip(names, layers, strict=True):
            weights |= {f"mlp.{name}.weight": weight, f"mlp.{name}.bias": bias}
    state = {
        name: torch.as_tensor(np.ascontiguousarray(x)).to(made.state_dict()[name].dtype) for name, x in weights.items()
    }
    made.load_state_dict(state)
    return nets.Network(made.eval())


def _parameter(x: Any) -> np.ndarray:
    return np.asarray(x.args[0] if isinstance(x, Record) else x, np.float64)


def _dense(sequential: Record) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, np.ndarray]:
    """Layers, and what is subtracted from their input and multiplied with it."""
    parts = sequential.part("_modules")
    known = r"flatten|squeeze|normalize_input|dense\d+|act\d+|dense_final"
    names = {name: re.sub(r"^.*?((" + known + r")$)", r"\1", name) for name in parts}
    if strange := [name for name in names.values() if not re.fullmatch(known, name)]:
        raise ValueError(f"it has a layer '{strange[0]}'")
    if strange := [p.name for name, p in parts.items() if names[name].startswith("act") and p.name != "ReLU"]:
        raise ValueError(f"its activation is a {strange[0]}, not a ReLU")
    layers = [
        (_parameter(p.part("weight")), _parameter(p.part("bias")))
        for name, p in parts.items()
        if names[name].startswith("dense")
    ]
    size = layers[0][0].shape[1]
    norm = next((p for name, p in parts.items() if names[name] == "normalize_input"), None)
    if norm is None:
        return layers, np.zeros(size), np.ones(size)
    spread = np.sqrt(np.asarray(norm.part("running_var"), np.float64) + float(norm.part("eps")))
    return layers, np.asarray(norm.part("running_mean"), np.float64), 1 / spread


def _integer(x: Any) -> int:
    """A number that may be numpy's scalar, recorded as its type and its bytes."""
    return int.from_bytes(x.args[1], "little", signed=True) if isinstance(x, Record) else int(x)


def _shape(space: Record) -> tuple[int, ...]:
    if space.name == "Discrete":
        return (_integer(space.part("n")),)
    found = next(space.part(name) for name in ("_shape", "shape") if space.part(name) is not None)
    return tuple(_integer(n) for n in (found.args[0] if isinstance(found, Record) else found))


def _action(space: Record) -> dict[str, Any]:
    return {"n": _integer(space.part("n"))} if space.name == "Discrete" else {"shape": list(_shape(space))}


def _unit(net: Record) -> float:
    """What observations are multiplied with: images of bytes come divided by 255."""
    while net.part("_base") is not None:
        net = net.part("_base")
    space = net.part("observation_space")
    kind = space.part("dtype")
    image = isinstance(kind, Record) and kind.args[:1] == ("u1",) and len(_shape(space)) == 3
    return 1 / 255 if image and net.part("normalize_images") is not False else 1.0
