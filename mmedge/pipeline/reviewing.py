"""What a reviewer asks of a run, beside its figures: taken on the test split, of the teacher and of what ships."""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from mmedge.artifact import WEIGHTS, Artifact, contract_of
from mmedge.backends import GRAPH_BACKEND
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import first_line
from mmedge.measure.contribution import contributions
from mmedge.measure.pictures import picture
from mmedge.measure.quality import Outputs, predict_module, rows_of
from mmedge.measure.review import disagreements, review
from mmedge.pipeline.measuring import once
from mmedge.pipeline.predicting import Predictions, classes_of, is_outputs
from mmedge.pipeline.ran import Ran
from mmedge.report.explained import InsideRecord, InsideStageRecord
from mmedge.report.review import ContributionsRecord, DisagreementRecord, DisagreementsRecord, ReviewRecord
from mmedge.stages.results import TORCH
from mmedge.training.context import Context

# Samples that contributions are taken of.
_CONTRIBUTIONS = 1000


def shipped_of(ran: list[Ran]) -> Ran | None:
    """The last stage whose graph is computed here: that of the bundle."""
    able = [done for done in ran if done.result and done.result.target in (GRAPH_BACKEND, TORCH)]
    return able[-1] if able else None


def reviews_of(ran: list[Ran], predictions: Predictions) -> dict[str, dict[str, ReviewRecord]]:
    """{stage: {head: its review}} of the teacher and of what ships."""
    found, context = {}, predictions.context
    for done in _looked_at(ran):
        assert done.artifact
        compute = partial(_review, done, done.artifact, predictions)
        given = once("review", _key(done.artifact, context), context, f"reviewing {done.stage}", compute)
        found[done.stage] = TypeAdapter(dict[str, ReviewRecord]).validate_python(given)
    return found


def contributions_of(ran: list[Ran], predictions: Predictions) -> list[ContributionsRecord]:
    """What each modality contributes to what ships."""
    done = shipped_of(ran)
    if done is None or done.artifact is None or is_outputs(done.artifact):
        return []
    context = predictions.context
    compute = partial(_contributions, done, done.artifact, predictions)
    given = once("contributions", _key(done.artifact, context), context, "what each modality contributes", compute)
    return TypeAdapter(list[ContributionsRecord]).validate_python(given)


def inside_of(ran: list[Ran], context: Context) -> InsideStageRecord | None:
    """What is seen inside the last network of the run, from which what ships is made; None where the recipe wants none."""
    networks = [done for done in ran if done.artifact and _holds_network(done, done.artifact, context)]
    wanted = context.recipe.report
    if not networks or not wanted.explained or not len(context.dataset.test):
        return None
    done, artifact = networks[-1], networks[-1].artifact
    assert artifact
    key = [*_key(artifact, context), wanted.model_dump(mode="json"), _captum()]
    saying = f"looking inside {done.stage}, on {min(wanted.explained, len(context.dataset.test))} test samples (report.explained)"
    return InsideStageRecord.model_validate(
        once("inside", key, context, saying, partial(_inside, done, artifact, context))
    )


def _holds_network(done: Ran, artifact: Artifact, context: Context) -> bool:
    own = "model" in artifact.meta and artifact.file(WEIGHTS).is_file()
    return own and classes_of(done, artifact, context) is None


def _captum() -> str | None:
    """What evidence depends on, beside mmedge's own code."""
    try:
        return version("captum")
    except PackageNotFoundError:
        return None


def _inside(done: Ran, artifact: Artifact, context: Context) -> Any:
    from mmedge.measure.inside import Seen, inside, spread

    started, contract, wanted = time.monotonic(), contract_of(artifact), context.recipe.report
    test = context.dataset.preprocessed(contract.modalities, context.progress).test.only(tuple(contract.modalities))
    samples = test.taken(np.array(spread(len(test), wanted.explained)))
    module, place = context.rebuild(artifact), {sample: row for row, sample in enumerate(context.dataset.test.ids)}
    outputs = predict_module(module, contract, samples, samples.present)

    def row_of(row: int) -> tuple[int, str | None]:
        return place[samples.ids[row]] + 1, samples.ids[row]

    drawn = wanted.evidence if wanted.samples == "pictures" else 0
    try:
        found = inside(Seen(module, contract, samples, outputs, row_of), drawn)
    except Exception as error:  # whatever a user's network does under hooks, the run's figures are there
        found = InsideRecord(
            saliency=[], attention=[], embeddings=[], notes=[f"it cannot be seen: {first_line(error)}"]
        )
    seconds = round(time.monotonic() - started, 1)
    return InsideStageRecord(**dict(found), stage=done.stage, split="test", n=len(samples), seconds=seconds).record()


def disagreements_of(ran: list[Ran], predictions: Predictions) -> DisagreementsRecord | None:
    """Where what ships differs most from the teacher; None where one of them is not there."""
    looked = _looked_at(ran)
    if len(looked) < 2 or not (looked[0].artifact and looked[1].artifact):
        return None
    first, second, context = looked[0].artifact, looked[1].artifact, predictions.context
    key = [*_key(first, context), second.sha256, context.recipe.report.model_dump(mode="json")]
    compute = partial(_disagreements, looked[0], looked[1], predictions)
    given = once("disagreements", key, context, "where the student differs from its teacher", compute)
    return DisagreementsRecord.model_validate(given) if given else None


def _looked_at(ran: list[Ran]) -> list[Ran]:
    """The teacher and what ships, without those that have no artifact; the teacher once where it ships itself."""
    teacher, shipped = next((done for done in ran if done.step.row.role == "teacher"), None), shipped_of(ran)
    chosen = [teacher] + ([shipped] if shipped is not teacher else [])
    return [done for done in chosen if done and done.artifact]


def _key(artifact: Artifact, context: Context) -> list[Any]:
    return [artifact.sha256, context.dataset.sha256]


def _review(done: Ran, artifact: Artifact, predictions: Predictions) -> Any:
    contract, samples, predict = predictions.given(done, artifact)
    return {name: record.record() for name, record in review(contract, predict(samples.present), samples).items()}


def _contributions(done: Ran, artifact: Artifact, predictions: Predictions) -> Any:
    _, samples, predict = predictions.given(done, artifact)
    rows = np.flatnonzero(samples.present.all(axis=1) & samples.labelled)
    rows = rows[np.linspace(0, len(rows) - 1, min(_CONTRIBUTIONS, len(rows))).round().astype(int)]

    def of_rows(present: np.ndarray) -> Outputs:
        """Of the whole split with the same modalities, which it was run with before."""
        return rows_of(predict(samples.present & present[0]), rows)

    return [record.record() for record in contributions(done.stage, samples.taken(rows), of_rows)]


def _disagreements(first: Ran, second: Ran, predictions: Predictions) -> Any:
    assert first.artifact and second.artifact
    context = predictions.context
    _, theirs, they_predict = predictions.given(first, first.artifact)
    contract, ours, we_predict = predictions.given(second, second.artifact)
    their_outputs, our_outputs = they_predict(theirs.present), we_predict(ours.present)
    place = {sample: row for row, sample in enumerate(ours.ids)}
    rows = np.array([place[sample] for sample in theirs.ids if sample in place], np.int64)
    if not len(rows):
        return None
    at = {sample: row for row, sample in enumerate(theirs.ids)}
    pair = rows_of(their_outputs, np.array([at[ours.ids[row]] for row in rows], np.int64)), rows_of(our_outputs, rows)
    seen = ours.taken(rows)
    lost, won, found = disagreements(contract, *pair, seen, context.recipe.report.disagreements)
    counted = {"lost": lost, "won": won} if any(record.first.right is not None for record in found) else {}
    named = [_named(record, seen, contract, context) for record in found]
    record = DisagreementsRecord(
        first=first.stage, second=second.stage, n=int(seen.labelled.sum()), **counted, samples=named
    )
    return record.record()


def _named(record: DisagreementRecord, seen: Samples, contract: Contract, context: Context) -> DisagreementRecord:
    """With the row of the whole split and, as far as the recipe allows, its id and its pictures."""
    at, allowed = record.row - 1, context.recipe.report.samples
    named = record.model_copy(update={"row": context.dataset.test.ids.index(seen.ids[at]) + 1})
    if allowed == "rows":
        return named
    named = named.model_copy(update={"id": seen.ids[at]})
    if allowed == "ids":
        return named
    drawn = {
        name: picture(contract.modalities[name], x[at])
        for number, (name, x) in enumerate(seen.inputs.items())
        if seen.present[at, number]
    }
    return named.model_copy(update={"pictures": {name: uri for name, uri in drawn.items() if uri}})
