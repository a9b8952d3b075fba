"""Mixing rates: which share of the micro-batches each task of a mixture gets."""

from collections.abc import Mapping

from mpt.base.errors import ManifestError
from mpt.data.manifest.task_spec import Mixture

_TOLERANCE = 1e-9


def mixing_rates(
    mixture: Mixture,
    sizes: Mapping[str, int],
    *,
    total: float | None = None,
    max_epochs: Mapping[str, float | None] | None = None,
    rates: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Compute the mixing rate of every task.

    Sizes are counted in words, not in sentences: every micro-batch holds about the same number of word pieces, so a
    rate is a share of micro-batches and thereby of words. `proportional` then gives every task the same number of
    epochs, `uniform` the same number of micro-batches, and `temperature` lies between (size to the power of 1/T).

    With a total, no task is repeated more often than its limit: tasks above it are held at `limit * size / total`, and
    what that frees goes to the others in proportion to their rates, until no task is above its limit: its own of
    `max_epochs`, else that of the mixture. Strategy `explicit` needs the relative weight of each task, its `rates`.

    Returns:
        Rates that sum to 1, in the order of `sizes`.

    Raises:
        ManifestError: A task without words, a missing rate, or a total that the limits do not let the mixture reach.

    Source:
        Temperature: Raffel et al. 2020, "T5", arXiv:1910.10683, section 3.5.2. Repetition limit: Chung et al. 2023,
        "UniMax", arXiv:2304.09151, there for uniform sampling.
    """
    empty = [name for name, size in sizes.items() if size <= 0]
    if empty or not sizes:
        raise ManifestError(f"tasks without a word to train on: {', '.join(empty) or 'all'}. Disable or fill them.")
    weights = _weights(mixture, sizes, rates or {})
    limits = repetition_limits(mixture, {name: (max_epochs or {}).get(name) for name in sizes})
    if total is None:
        return _normalised(weights)
    caps = {name: limit * sizes[name] / total for name, limit in limits.items() if limit is not None}
    if len(caps) == len(sizes) and sum(caps.values()) < 1 - _TOLERANCE:
        raise ManifestError(_out_of_reach(sizes, limits, caps, total))
    return _filled(weights, caps)


def repetition_limits(mixture: Mixture, max_epochs: Mapping[str, float | None]) -> dict[str, float | None]:
    """How many epochs of each task a run may draw at most: its own limit, else the mixture's; None for no limit."""
    return {name: limit or mixture.max_epochs_per_task for name, limit in max_epochs.items()}


def _weights(mixture: Mixture, sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, float]:
    if mixture.strategy == "proportional":
        return {name: float(size) for name, size in sizes.items()}
    if mixture.strategy == "temperature":
        return {name: size ** (1 / mixture.temperature) for name, size in sizes.items()}
    if mixture.strategy == "uniform":
        return dict.fromkeys(sizes, 1.0)
    missing = [name for name in sizes if name not in rates]
    if missing:
        raise ManifestError(f"strategy explicit: no rate for {', '.join(missing)}. Add rate to each.")
    return {name: rates[name] for name in sizes}


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _filled(weights: Mapping[str, float], caps: Mapping[str, float]) -> dict[str, float]:
    """Water filling: hold tasks at their caps, share what is left by weight, until the shares respect all caps."""
    held: dict[str, float] = {}
    while True:
        free = {name: weight for name, weight in weights.items() if name not in held}
        left = 1 - sum(held.values())
        shares = {name: left * share for name, share in _normalised(free).items()} if free else {}
        above = {name: caps[name] for name, share in shares.items() if share > caps.get(name, 1.0) * (1 + _TOLERANCE)}
        if not above:
            found = {**held, **shares}
            return _normalised({name: found[name] for name in weights})
        held |= above


def _out_of_reach(
    sizes: Mapping[str, int], limits: Mapping[str, float | None], caps: Mapping[str, float], total: float
) -> str:
    most = ", ".join(f"{name} {caps[name] * total:,.0f} = {limits[name]:g} epochs of {sizes[name]:,}" for name in sizes)
    reachable = sum(caps.values()) * total
    return (
        f"a run of {total:,.0f} words cannot be filled: the repetition limits allow {reachable:,.0f} ({most}). "
        "Draw less (fewer steps or passes), or raise mixture.max_epochs_per_task or a task's max_epochs."
    )
