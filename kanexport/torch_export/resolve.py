"""Resolution of the layers of a lent module: the exporter compares each interpretation with the outputs of the
layer."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan, OptionError
from kanexport.torch_export import additive, conv_detect, kan_candidates, match
from kanexport.torch_export.capture import Call, ReferenceModule
from kanexport.torch_export.kan_candidates import LINEAR, Candidate, Whole, is_in, parents, shown
from kanexport.torch_export.match import EDGES_SUM, TENSORS, Reading, Verdict, judge

Array = npt.NDArray[np.float64]

NAMED = 5  # submodules in a note


def find(
    whole: Whole, oracle: ReferenceModule, x: Array, options: Mapping[str, str], kept: Sequence[str]
) -> tuple[dict[str, Reading], list[str]]:
    """Readings by name, without layers inside those that are `kept`, and notes on submodules that were not read, or
    read in another way than their tensors suggest. x: a few rows. Raises OptionError for an option that no layer
    uses."""
    candidates = {
        name: candidate for name, candidate in kan_candidates.candidates(whole).items() if not is_in(name, kept)
    }
    places = match.floating(whole.wiring.ports, x)
    readings, notes = _settle(candidates, oracle, x, options, places)
    readings, more = _convolve(whole, readings, oracle, x, kept)
    notes += more
    unknown = {name: part for name, part in additive.unknown(whole, readings).items() if not is_in(name, kept)}
    if not unknown:
        return readings, notes
    readings, more = _sample(unknown, readings, oracle, x, places, candidates)
    return readings, [*notes, *more]


def _convolve(
    whole: Whole, readings: dict[str, Reading], oracle: ReferenceModule, x: Array, kept: Sequence[str]
) -> tuple[dict[str, Reading], list[str]]:
    """The readings and the KAN convolutions among the rest, and notes on these."""
    parts = {name: part for name, part in conv_detect.parts(whole, readings).items() if not is_in(name, kept)}
    if not parts:
        return readings, []
    calls = _calls({name: Candidate(part, ()) for name, part in parts.items()}, oracle, x)
    in_order = {name: calls[name] for name in parts if name in calls}
    convolutions, refused = conv_detect.find_convolutions(in_order, _precision(oracle), list(readings))
    return readings | convolutions, _convolution_notes(convolutions, refused)


def _convolution_notes(convolutions: Mapping[str, Reading], refused: Mapping[str, str]) -> list[str]:
    """Notes on the submodules that are KAN convolutions, and on those that are not."""
    by_words: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_words.setdefault(f"resembles a KAN convolution, but {why}; it has no edges", []).append(name)
    for name, reading in convolutions.items():
        for words in conv_detect.notes(reading.by):
            by_words.setdefault(words, []).append(name)
    return [f"{listed(names)}: {words}" for words, names in by_words.items()]


def _settle(
    candidates: dict[str, Candidate],
    oracle: ReferenceModule,
    x: Array,
    options: Mapping[str, str],
    places: match.Places,
) -> tuple[dict[str, Reading], list[str]]:
    """Readings by name, outermost first, and notes on submodules that were not read, or read in another way."""
    by_name, far = _calls(candidates, oracle, x), _far_calls(candidates, oracle, x, places)
    readings: dict[str, Reading] = {}
    refused: dict[str, Verdict] = {}
    consulted: set[str] = set()
    precision = _precision(oracle)
    for name in sorted(by_name, key=list(candidates).index):
        if any(parent in readings for parent in parents(name)):
            continue
        verdict = judge(candidates[name], by_name[name], options, precision, far.get(name, ()))
        consulted |= verdict.consulted
        if verdict.reading is not None:
            readings[name] = verdict.reading
        else:
            refused[name] = verdict
    _require_useful(options, consulted)
    return readings, [*_hows(readings), *_whys(refused, readings)]


def _sample(
    unknown: dict[str, nn.Module],
    readings: dict[str, Reading],
    oracle: ReferenceModule,
    x: Array,
    places: match.Places,
    noted: Container[str],
) -> tuple[dict[str, Reading], list[str]]:
    """The readings, and sampled layers for submodules without a reader that are additive, in place of readings
    inside them; and notes on both. `noted`: the names that have notes already."""
    watched = {name: Candidate(part, ()) for name, part in unknown.items()}
    few = _calls(watched, oracle, repeat(x, 2))
    likely, untried = additive.find_candidates(unknown, few), _untried(additive.reasons(unknown, few), noted)
    if not likely:
        return readings, untried
    watched = {name: watched[name] for name in likely}
    calls, far = _calls(watched, oracle, x), _far_calls(watched, oracle, x, places)
    offered, refused = additive.verify_candidates(likely, calls, far, _precision(oracle))
    unsampled = {name: reading for name, reading in readings.items() if offered.keys().isdisjoint(parents(name))}
    by_why: dict[str, list[str]] = {}
    for name, verdict in refused.items():
        if name in noted:
            continue
        by_why.setdefault(verdict.why.replace(TENSORS, EDGES_SUM), []).append(name)
    notes = [
        f"{listed(names)}: has coefficients like those of a KAN layer without a reader, but {why}; it has no edges"
        for why, names in by_why.items()
    ]
    if offered:
        notes.append(
            f"{listed(list(offered))}: no reader knows the layer, and it is additive; an edge is its output if only "
            "that source changes"
        )
    return unsampled | offered, [*notes, *untried]


def _untried(reasons: Mapping[str, str], noted: Container[str]) -> list[str]:
    by_why: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if name not in noted:
            by_why.setdefault(why, []).append(name)
    return [
        f"{listed(names)}: has coefficients like those of a KAN layer without a reader, but {why}; it has no edges"
        for why, names in by_why.items()
    ]


def _precision(oracle: ReferenceModule) -> str:
    return "float64" if oracle.dtype == torch.float64 else "float32"


def _calls(candidates: dict[str, Candidate], oracle: ReferenceModule, x: Array) -> dict[str, list[Call]]:
    """The calls of every candidate that runs."""
    _, calls = oracle.run(x, {name: candidate.module for name, candidate in candidates.items()}, nested=True)
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    return by_name


def _far_calls(
    candidates: dict[str, Candidate], oracle: ReferenceModule, x: Array, places: match.Places
) -> dict[str, list[Call]]:
    """The same for rows far from the example, and for NaN and infinities, if the module runs on them."""
    by_name: dict[str, list[Call]] = {}
    rows = np.concatenate([match.far(x, places), *match.nonfinite(x, places).values()])
    for at in range(0, len(rows), len(x)):
        with contextlib.suppress(InvalidKan):
            for name, calls in _calls(candidates, oracle, repeat(rows[at : at + len(x)], len(x))).items():
                by_name.setdefault(name, []).extend(calls)
    return by_name


def _hows(readings: dict[str, Reading]) -> list[str]:
    by_how: dict[str, list[str]] = {}
    for name, reading in readings.items():
        if reading.how:
            by_how.setdefault(reading.how, []).append(name)
    return [f"{listed(names)}: read {how}, to match the module" for how, names in by_how.items()]


def _whys(refused: dict[str, Verdict], readings: dict[str, Reading]) -> list[str]:
    """Notes on submodules that were not replaced, except those that contain read layers or were not replaced for the
    same family."""
    families = {name: reading.family for name, reading in readings.items()}
    families |= {name: verdict.family for name, verdict in refused.items()}
    inner = {(parent, family) for name, family in families.items() for parent in parents(name)}
    by_why: dict[tuple[str, str, str], list[str]] = {}
    for name, verdict in refused.items():
        if (name, verdict.family) not in inner:
            by_why.setdefault((verdict.family, verdict.why, verdict.hint), []).append(name)
    return [_why(names, refused) for names in by_why.values()]


def _why(names: list[str], refused: dict[str, Verdict]) -> str:
    """One note for submodules that were not replaced for the same reason."""
    verdict = refused[names[0]]
    kind = "a linear layer" if verdict.family == LINEAR else f"a layer of {verdict.family}"
    error = max(refused[name].error for name in names)
    advice = "; ".join([f"by up to {error:.1e}"] * bool(error) + [verdict.hint] * bool(verdict.hint))
    return f"{listed(names)}: resembles {kind}, but {verdict.why}{f' ({advice})' if advice else ''}; not replaced"


def _require_useful(options: Mapping[str, str], consulted: set[str]) -> None:
    unknown = sorted(set(options) - consulted)
    if unknown:
        known = ", ".join(sorted(key for key in consulted if " " not in key))
        option = f"--{unknown[0]}" if " " in unknown[0] else repr(unknown[0])
        raise OptionError(
            f"unknown option {option}: no KAN layer in this module uses it",
            code="option-unknown",
            hint=f"available: {known}" if known else f"remove {option}",
        )


def listed(names: Sequence[str]) -> str:
    """The first names, each once, and the number of the others."""
    unique = [shown(name) for name in dict.fromkeys(names)]
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def repeat(x: Array, count: int) -> Array:
    """The number of rows, with different ones if there are enough."""
    return np.resize(x, (count, *x.shape[1:]))
