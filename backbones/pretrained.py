"""Loading a checkpoint into a backbone, strictly: every key that misfits is named."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import InputError
from ..registry import MODELS
from .reading import SHOWN, read_checkpoint

# Norms of single outputs, and whole stages, belong to a choice of out_indices, not to the pretrained network.
OUTPUT_NORM = re.compile(r"norms\.\d+\.")
STAGE = re.compile(r"stages\.(\d+)\.")
LEAST = 0.25  # of a backbone's values, where a part was asked for; a file of another network has some norms that fit
# From a backbone and weights under anyone's names to its own names, or None; `checkpoints` brings it when imported.
TRANSLATORS: list[Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor] | None]] = []


@dataclass
class LoadReport:
    """How the keys of a file fitted a model: all empty if every one did."""

    missing: list[str] = field(default_factory=list)  # in the model, not in the file
    unexpected: list[str] = field(default_factory=list)  # in the file, not in the model
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )  # shape in file, in model

    def __bool__(self) -> bool:
        """Whether something did not fit."""
        return bool(self.missing or self.unexpected or self.misshaped)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def words(self) -> str:
        """The counts and the first names, in one line."""
        shapes = [
            f"{name} {list(got)} in the file, {list(want)} in the model" for name, (got, want) in self.misshaped.items()
        ]
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
            for kind, names in (("mis-shaped", shapes), ("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        return "; ".join(parts)

    def class_counts_differ(self) -> bool:
        """Whether all that does not fit are shapes that differ in their first number alone, as heads' do."""
        shapes = self.misshaped.values()
        return bool(shapes) and not self.missing and not self.unexpected and all(a[1:] == b[1:] for a, b in shapes)


def compare_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> LoadReport:
    """Names and shapes of a state dict against those of `model`."""
    own = model.state_dict()
    return LoadReport(
        # Batches counted by a batch norm weigh nothing once its momentum is set, and not every release has them.
        missing=[name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        unexpected=[name for name in weights if name not in own],
        misshaped={
            name: (tuple(weights[name].shape), tuple(tensor.shape))
            for name, tensor in own.items()
            if name in weights and isinstance(tensor, Tensor) and weights[name].shape != tensor.shape
        },
    )


def unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the leading `module.` that DistributedDataParallel puts before every name."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def is_pretrained(init_cfg: object) -> bool:
    """Whether an `init_cfg` asks for a checkpoint."""
    return isinstance(init_cfg, Mapping) and init_cfg.get("type") == "Pretrained"


def load_pretrained(backbone: nn.Module, init_cfg: Mapping) -> None:
    """Load `init_cfg['checkpoint']` (a path, URL or scheme such as timm://) into a backbone.

    With `strict=False` what fits is taken, if it is at least a quarter of the backbone's values, or the share that
    `init_cfg['min_loaded']` sets.

    A classifier's, detector's or segmentor's checkpoint serves too: its `backbone.` part is taken, or the part that
    `init_cfg['prefix']` names. Names may be ours, timm's or the authors'; windows, kernels and tables of another size
    are brought to this one's. Output norms that the checkpoint has not (other `out_indices`) keep their initial
    values, and the log says so.

    Raises:
        InputError: no such file or not a checkpoint; no key has the prefix; keys are missing, unexpected or mis-shaped
            and `init_cfg` does not say `strict=False`; nothing fits at all, or less than `min_loaded`.
    """
    source, who = init_cfg["checkpoint"], type(backbone).__name__
    fitting, report, fresh = fit_pretrained(backbone, init_cfg)
    if report:
        print_log(f"{source}: loaded in part into {who}: {report.words()}", "current")
    if fresh:
        print_log(f"{source}: no output norms in it; {len(fresh)} keys keep their initial values", "current")
    backbone.load_state_dict(fitting, strict=False)


def fit_pretrained(backbone: nn.Module, init_cfg: Mapping) -> tuple[dict[str, Tensor], LoadReport, list[str]]:
    """What `load_pretrained` would load: weights under the backbone's names, what does not fit, fresh output norms.

    Raises:
        InputError: see `load_pretrained`.
    """
    source, who = init_cfg["checkpoint"], type(backbone).__name__
    try:
        state_dict = unwrapped(read_checkpoint(source)["state_dict"])
    except InputError as error:
        raise InputError(f"{who}: {error} (init_cfg.checkpoint of the backbone)") from error
    state_dict = _under(init_cfg.get("prefix"), state_dict, source)
    MODELS.import_from_location()  # brings the translators
    try:
        for translate in TRANSLATORS:
            state_dict = translate(backbone, state_dict) or state_dict
    except InputError as error:
        raise InputError(f"{source}: {error}: name the backbone that they are of (init_cfg.checkpoint)") from error
    own, stages = backbone.state_dict(), len(getattr(backbone, "stages", ()))
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if key in own or not (OUTPUT_NORM.match(key) or ((at := STAGE.match(key)) and int(at[1]) >= stages))
    }
    report = compare_weights(backbone, state_dict)
    fresh = [key for key in report.missing if OUTPUT_NORM.match(key)]
    report.missing = [key for key in report.missing if not OUTPUT_NORM.match(key)]
    fitting = {key: value for key, value in state_dict.items() if key in own and key not in report.misshaped}
    if not fitting or (report and init_cfg.get("strict", True)):
        remedy = ", or set strict=False in init_cfg to take what fits" if fitting else ""
        raise InputError(
            f"{source}: does not fit {who} {getattr(backbone, 'arch', '')}: {report.words()}. "
            f"Name the arch that the weights are of{remedy}"
        )
    share, least = share_of(backbone, fitting), init_cfg.get("min_loaded", LEAST)
    if report and share < least:
        raise InputError(
            f"{source}: {share:.0%} of the values of {who} {getattr(backbone, 'arch', '')} would be loaded, less than "
            f"{least:.0%}: {report.words()}. Name the arch that the weights are of, or set min_loaded in init_cfg"
        )
    return fitting, report, fresh


def share_of(module: nn.Module, names: Collection[str]) -> float:
    """The share of a module's values, in 0..1, that stand under `names`."""
    sizes = {name: tensor.numel() for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    return sum(size for name, size in sizes.items() if name in names) / max(sum(sizes.values()), 1)


def _under(prefix: str | None, state_dict: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The part of a state dict whose keys begin with `prefix`, without it; by default `backbone`, if there is one."""
    start = f"{prefix or 'backbone'}".rstrip(".") + "."
    part = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
    if prefix and not part:
        first = sorted({key.partition(".")[0] for key in state_dict})[:SHOWN]
        raise InputError(
            f"{source}: no key begins with {start!r}, the prefix in init_cfg; the keys begin with {', '.join(first)}"
        )
    return part or state_dict
