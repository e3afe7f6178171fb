"""Says in sentences what the result shows, and never more than its intervals do."""

from __future__ import annotations

from evaluators.base import DOCUMENTS
from orchestrator.campaign.aggregation import AGGREGATE
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.reporting.result import BEST, Line, Result
from orchestrator.reporting.statistics import Difference

#: What "clearly" stands for in every sentence.
CLEARLY = (
    "Clearly means that the 95% interval excludes 0 and p is at most 0.05. Intervals are "
    "bootstrapped over documents and hold for one comparison each: of many, a few exclude 0 by "
    "chance. They do not tell how another seed's search would have ended."
)
#: Share of comparisons between equals that come out clearly worse.
_BY_CHANCE = 0.025


def verdict(result: Result) -> str:
    """Says whether the search found something."""
    winner, rows = result.winner, "selection" if result.winner.selection else "search"
    if winner.role == "reference" and winner.operator != AGGREGATE:
        thing = "model" if result.is_model else "point"
        if rows == "selection":
            return (
                f"No finalist did better than {winner.label} on the selection rows: the result is "
                f"that {thing}."
            )
        return f"No candidate beat {winner.label} on the search rows: the result is that {thing}."
    if not result.is_model and "test" not in result.settings.evaluate.kinds:
        return f"{winner.label} is the best of all that were measured."  # rows are no matter here
    if not result.tests:
        among = "of the finalists " if rows == "selection" else ""
        missing = (
            "It was not measured on the test rows."
            if "test" in result.settings.evaluate.kinds
            else "There are no test rows to confirm it."
        )
        return f"{winner.label} is the best {among}on the {rows} rows. {missing}"
    return _on_test_rows(result)


def counterparts(result: Result) -> str:
    """Says whether the winner is better than what was made of it to be compared with.

    Empty where there is no such thing, or no test rows.
    """
    made = [line for line in result.lines if line.record.operator == COUNTERPART]
    return " ".join(_beside(result, line) for line in made if result.tests)


def _beside(result: Result, line: Line) -> str:
    winner, found = result.winner.label, line.lead
    if found is None:
        return f"There is nothing to tell by whether {winner} is better than {line.label}."
    by = f"{found.value:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}] on the test rows"
    if found.clear > 0:
        return f"{winner} is clearly better than its counterpart ({line.label}): {by}."
    how = "clearly worse" if found.clear < 0 else "not clearly better"
    return (
        f"{winner} is {how} than its counterpart ({line.label}): {by}. What it has beyond that is "
        "not shown to be of use."
    )


def constraints(result: Result) -> str:
    """Says whether the result keeps the constraints; empty where there are none."""
    aims = result.settings.objectives
    if aims is None or not aims.constraints:
        return ""
    winner, listed = result.winner, "; ".join(aims.constraints)
    if winner.violation:
        return (
            f"Nothing that was measured keeps all constraints ({listed}): {winner.label} breaks "
            f"them least, by {winner.violation:.3g} of their bounds in all."
        )
    return f"{winner.label} keeps all constraints, as measured on the search rows: {listed}."


def ended(result: Result) -> str:
    """Says why the search ended."""
    budget = result.settings.budget
    return {
        "time": "time was up",
        "target": f"a fitness of {budget.target} was reached",
        "stagnation": "the best did not become better any more",
        "exhausted": "nothing was left to search",
    }.get(result.status["reason"] or "", "its budget was spent")


def controls(result: Result) -> str:
    """Says whether anything else got worse; empty where there are no control tasks."""
    if not result.winner.control:
        if "control" not in result.settings.evaluate.kinds:
            return ""
        return f"{result.winner.label} was not measured on the control tasks."
    compared = [
        (line, task, found)
        for line in result.lines[1:]
        for task, found in line.control_leads.items()
    ]
    sentences = [_losses(compared)] if compared else []
    unknown = [
        f"{task} beside {line.label}"
        for line in result.lines[1:]
        for task in result.winner.control
        if line.record.control and task not in line.control_leads
    ]
    if unknown:
        sentences.append(f"No interval can be told for {', '.join(unknown)}.")
    return " ".join(sentences)


def optimism(result: Result) -> list[str]:
    """Says how much selection flattered; empty where search and test rows do not compare."""
    sentences = [
        f"{one.label.removeprefix(BEST)} scores {abs(one.difference.value):.3f} "
        f"{'lower' if one.difference.value < 0 else 'higher'} on the {one.rows} rows than on the "
        f"test rows: {_explained(one.difference)}."
        for one in result.optimism
    ]
    if sentences and set(result.winner.test) != set(result.winner.scores):
        sentences.append(
            "The test tasks have other names than the search tasks: if they are not equally hard, "
            "that is part of the difference."
        )
    return sentences


def picking(result: Result) -> str:
    """Says how the winner was picked."""
    winner = result.winner
    if not winner.selection:
        return f"{winner.label} was picked by its fitness on the search rows."
    num = len(result.finalists)
    documents = sum(score.documents for score in winner.selection.values())
    text = (
        f"{winner.label} was picked by its fitness on {documents} selection rows among {num} "
        f"finalist{'s' if num != 1 else ''}: those with the highest lower end of the 95% interval "
        "of their fitness on the search rows."
    )
    if num > result.settings.finalists:
        return (
            f"{text} An earlier end of this campaign used the same rows: they have been chosen by "
            "more than once."
        )
    return f"{text} These rows were used for nothing else."


def racing(result: Result) -> str:
    """Says what races, estimates and copied scores saved; empty where each was measured in full."""
    status = result.status
    whole = whole_documents(result)
    spent = sum(
        status["documents"].get(role, {}).get("search", 0) for role in ("search", "control")
    )
    references = [line for line in result.lines if line.record.role == "reference"]
    num = status["evaluated"] - sum(line.record.fitness is not None for line in references)
    if whole is None or num < 1 or not 0 < spent < num * whole:
        return ""
    counts = {"stopped early": status["stopped"], "copied from equal ones": status["cached"]}
    why = " and ".join(f"{count} were {how}" for how, count in counts.items() if count)
    said = f"Of {num} candidates {why}. " if why else ""
    if whole == 1:
        return said.strip()  # there are no parts of which some could be saved
    if result.counted_in != DOCUMENTS:
        return said + (
            f"Candidates were trained for {spent:,} {result.counted_in} where training each to its "
            f"end takes {num * whole:,}: {1 - spent / (num * whole):.0%} were saved."
        )
    return (
        said
        + f"Candidates were scored on {spent:,} documents of the search rows where measuring each "
        f"in full takes {num * whole:,}: {1 - spent / (num * whole):.0%} were saved."
    )


def whole_documents(result: Result) -> int | None:
    """Returns the documents of a full measurement on the search rows: every reference has one."""
    counts = [
        sum(score.documents for score in line.record.scores.values())
        for line in result.lines
        if line.record.role == "reference" and line.record.fidelity >= 1
    ]
    return max(counts, default=0) or None


def _on_test_rows(result: Result) -> str:
    leads = [line.lead for line in result.lines[1:] if line.lead is not None]
    if not leads:
        return (
            f"{result.winner.label} was measured on the test rows, but there is no model that it "
            "can be compared with document by document."
        )
    above = [one for one in leads if one.value > 0]
    below = [one for one in leads if one.value < 0]
    return (
        f"On the test rows {result.winner.label} scores above {len(above)} of {len(leads)} models "
        f"it is compared with, {_count(above, 1)} clearly, and below {len(below)}, "
        f"{_count(below, -1)} clearly."
    )


def _count(leads: list[Difference], sign: int) -> int:
    return sum(one.clear == sign for one in leads)


def _losses(compared: list[tuple[Line, str, Difference]]) -> str:
    """Names the control tasks that got clearly worse, or what loss cannot be ruled out."""
    worse = [(line, task, found) for line, task, found in compared if found.clear < 0]
    if worse:
        named = "; ".join(
            f"{task} beside {line.label}, by {-found.value:.3f} [{-found.interval[1]:.3f}, "
            f"{-found.interval[0]:.3f}]"
            for line, task, found in worse
        )
        return (
            f"On control tasks the best is clearly worse in {len(worse)} of {len(compared)} "
            f"comparisons (of as many between equals, about {_BY_CHANCE * len(compared):.1f} come "
            f"out so by chance): {named}."
        )
    text = (
        f"On control tasks the best is clearly worse in none of {len(compared)} comparisons with "
        "the models beside it."
    )
    line, task, found = min(compared, key=lambda one: one[2].interval[0])
    if found.interval[0] >= 0:
        return text
    return (
        f"{text} That rules no small loss out: the lowest interval reaches down to "
        f"{found.interval[0]:+.3f} ({task} beside {line.label})."
    )


def _explained(found: Difference) -> str:
    if found.clear > 0:
        return "more than the chance of the documents explains"
    if found.clear < 0:
        return "the test rows came out easier"
    return "no more than the chance of the documents can explain"
