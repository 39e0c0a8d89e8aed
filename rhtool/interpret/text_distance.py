"""`method=text_distance`: how far rewards of answers are apart, and how that changes along a policy's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.base import Method

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.report import Report
    from rhtool.interpret.texts import Answers
    from rhtool.rewards.base import Reward
    from rhtool.run import Run

    Array = NDArray[np.float64]


@dataclass
class TextDistance(Method):
    """Pearson distance within prompts, agreement and Kendall's tau between rewards of answers, and along a run's evaluations."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    others: list[str] = field(default_factory=list)
    """rewards to compare with besides the proxy and the true one: runs of task=rm_train, directories or hub names, or module:function"""
    members: bool = True
    """whether each judge of a reward of several is compared by itself too"""

    def check(self, run: Run) -> None:
        """Are the others there?"""
        for other in self._others().values():
            other.check()

    def inputs(self, run: Run) -> dict[str, str]:
        """The models of the others."""
        return {f"{name}: {k}": path for name, other in self._others().items() for k, path in other.inputs().items()}

    def _others(self) -> dict[str, Reward]:
        from rhtool.rewards.python import Python
        from rhtool.rewards.rm import Rm

        found: dict[str, Reward] = {}
        for path in self.others:
            made: Reward = Python(function=path) if ":" in path else Rm(model=path)
            made.option = f"method.others[{len(found)}]"
            if path in found:
                raise ConfigError(f"{path} is there twice", "method.others", "name it once")
            found[path] = made
        return found

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Score, compare, show."""
        import numpy as np
        import pandas as pd

        from rhtool.interpret.agreement import apart, distances
        from rhtool.interpret.texts import NEITHER
        from rhtool.results.statistics import limits

        answers = run.task.answered(run)
        scores = self._scores(run, answers)
        if len(scores) < 2:
            mend = "name another one: method.others=[outputs/rm_train/…/seed=1], or who gives the true reward: data.true_by"
            raise RhtoolError("there is one reward, and nothing to compare it with", "method.others", mend)
        if np.bincount(answers.prompt).max() < 2:
            raise RhtoolError(
                "no prompt has two answers", "task.answers", "give a run with several, or none for the data's pairs"
            )
        rows = []
        names = list(scores)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                found = apart(scores[one], scores[other], answers.prompt, seed=run.seed)
                row = {"reward": one, "other": other}
                rows.append(row | {k: v for key, e in vars(found).items() for k, v in limits(key, e).items()})
        table = pd.DataFrame(rows)
        first = table.iloc[0]
        metrics = {key: float(first[key]) for key in table.columns[2:]}
        metrics = {f"apart/{key}": value for key, value in metrics.items()}

        report.heading("How far the rewards are apart")
        report.finding(_said(first)[:1].upper() + _said(first)[1:])
        if len(table) > 1:
            near, far = table.loc[table.distance.idxmin()], table.loc[table.distance.idxmax()]
            report.finding(
                f"Of {len(names)} rewards {near.reward} and {near.other} are nearest ({near.distance:.2f}), {far.reward} and {far.other} "
                f"farthest ({far.distance:.2f})."
            )
        report.text(
            f"{len(answers)} answers to {len(np.unique(answers.prompt))} prompts. Distance: sqrt((1 - rho) / 2) of scores less their mean "
            "over the answers to the prompt, since offsets change no policy and preferences do not fix them. 0: the same up to a "
            "positive factor, 0.71: unrelated, 1: opposite. "
            "Agreement: pairs of answers to a prompt ranked alike, ties counting half; kendall: tau-b. "
            "Intervals of 95 % by bootstrap over prompts."
        )
        report.table("apart", table, "Each two rewards.")
        if len(names) > 2:
            report.figure(
                "matrix",
                matrix_picture(names, distances(scores, answers.prompt)),
                "Distances, like rewards beside each other.",
            )
        if (answers.label != NEITHER).all():
            labels = answers.label.astype(np.float64)
            aligned = [
                {"reward": name, **limits("alignment", apart(x, labels, answers.prompt, seed=run.seed).kendall)}
                for name, x in scores.items()
            ]
            report.heading("With the data's labels")
            caption = (
                "Trajectory Alignment Coefficient: Kendall's tau-b of the reward and the labels, chosen over rejected."
            )
            report.table("alignment", pd.DataFrame(aligned), caption)
            metrics |= {"apart/alignment": aligned[0]["alignment"]}
        if len(np.unique(answers.step)) > 1:
            metrics |= self._along(report, answers, scores, run.seed)
        return metrics

    def _scores(self, run: Run, answers: Answers) -> dict[str, Array]:
        """`{name: (N,)}`: proxy and true where there are any, members, others."""
        from rhtool.interpret.texts import checked, given, score_by, true_score

        columns = answers.rows, answers.texts, answers.finished
        found: dict[str, Array] = {}
        if given(run.reward):
            judges = run.reward.load()(*columns)
            found["proxy"] = checked("proxy", run.reward.combined(judges).double().numpy(), answers.rows, answers.texts)
            if self.members and judges.shape[1] > 1:
                for k, name in enumerate(run.reward.judges(judges.shape[1])):
                    found[name] = checked(name, judges[:, k].double().numpy(), answers.rows, answers.texts)
        elif "proxy" in answers.recorded:
            found["proxy"] = checked("proxy", answers.recorded["proxy"], answers.rows, answers.texts)
        if true := true_score(run):
            found["true"] = true(*columns)
        elif "true" in answers.recorded:
            found["true"] = checked("true", answers.recorded["true"], answers.rows, answers.texts)
        for name, other in self._others().items():
            found[name] = score_by(other, name)(*columns)
        order = [name for name in ("proxy", "true") if name in found]
        return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}

    def _along(self, report: Report, answers: Answers, scores: dict[str, Array], seed: int) -> dict[str, float]:
        """The first two rewards on the first evaluation's answers with those of each later one."""
        import numpy as np
        import pandas as pd

        from rhtool.interpret.agreement import apart
        from rhtool.results.statistics import limits

        one, other = list(scores)[:2]
        steps = np.unique(answers.step)
        rows = []
        for step in steps[1:]:
            here = (answers.step == steps[0]) | (answers.step == step)
            found = apart(scores[one][here], scores[other][here], answers.prompt[here], seed=seed)
            gain = {
                name: x[answers.step == step].mean() - x[answers.step == steps[0]].mean() for name, x in scores.items()
            }
            row = {"step": int(step), **{k: v for key, e in vars(found).items() for k, v in limits(key, e).items()}}
            rows.append(row | {f"gain_{name}": gain[name] for name in (one, other)})
        table = pd.DataFrame(rows)
        first, last = table.iloc[0], table.iloc[-1]
        report.heading("Along training")
        report.finding(
            f"On the answers of the base policy and of round {last.step:.0f} the distance of {one} and {other} is {_interval(last)}; on "
            f"those of round {first.step:.0f} it was {_interval(first)}."
        )
        report.figure(
            "along",
            along_picture(table, f"{one} and {other}"),
            "Distance on the answers of the first evaluation and of each later one.",
        )
        report.table(
            "along",
            table,
            "The two answers to each prompt, of the first evaluation and of the step; gains are of the means.",
        )
        return {"apart/first_distance": float(first.distance), "apart/last_distance": float(last.distance)}


def _interval(row: DataFrame) -> str:
    return f"{row.distance:.2f} [{row.distance_low:.2f}, {row.distance_high:.2f}]"


def _said(row: DataFrame) -> str:
    return (
        f"{row.reward} and {row.other} are at distance {_interval(row)} (0: the same, 0.71: unrelated, 1: opposite), and rank "
        f"{row.agreement:.0%} [{row.agreement_low:.0%}, {row.agreement_high:.0%}] of the pairs of answers alike."
    )


def matrix_picture(names: list[str], found: Array) -> Figure:
    """Squares in grey, dark for far, with their numbers; rewards in the order of a clustering by mean distance."""
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    from rhtool.results.plots import INK, blank

    filled = np.where(np.isfinite(found), found, 1.0)
    order = leaves_list(linkage(squareform(filled, checks=False), "average"))
    side = 0.62 * len(names)
    left, below = 2.6, 1.6
    figure = blank(side + left + 0.3, side + below + 0.2)
    size = (side + left + 0.3, side + below + 0.2)
    axes = figure.add_axes((left / size[0], below / size[1], side / size[0], side / size[1]))
    axes.imshow(found[np.ix_(order, order)], vmin=0, vmax=1, cmap="Greys")
    for i, row in enumerate(order):
        for j, column in enumerate(order):
            ink = "white" if found[row, column] > 0.55 else INK
            axes.text(j, i, f"{found[row, column]:.2f}", ha="center", va="center", fontsize=8, color=ink)
    short = ["…" + n[-30:] if len(n) > 31 else n for n in (names[i] for i in order)]
    axes.set_xticks(range(len(names)), short, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), short, fontsize=8)
    return figure


def along_picture(table: DataFrame, what: str) -> Figure:
    """Distance against rounds, with its band."""
    from rhtool.results.plots import INK, REFERENCE, blank

    figure = blank(5.6, 3.4)
    axes = figure.add_axes((0.13, 0.17, 0.83, 0.76))
    axes.plot(table.step, table.distance, color=INK, marker="o", markersize=4)
    axes.fill_between(table.step, table.distance_low, table.distance_high, color=INK, alpha=0.15, linewidth=0)
    axes.axhline(0.5**0.5, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)))
    axes.annotate(
        "unrelated",
        (table.step.iloc[0], 0.5**0.5),
        fontsize=8,
        color=REFERENCE,
        xytext=(0, 3),
        textcoords="offset points",
    )
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("rounds of training", fontsize=9, color=INK)
    axes.set_ylabel(f"distance of {what}", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
