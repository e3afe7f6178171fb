"""The merge methods a recipe can name, and what each one takes. Importing this needs no torch."""

from __future__ import annotations

from workers.methods import parameters as the
from workers.methods.facts import MethodFacts, MethodRegistry, Parameter

__all__ = ["METHODS", "MethodFacts", "MethodRegistry", "Parameter"]

_TRIMMED = {"normalize": False, "rescale": "none"}
_DRAWN = {"normalize": False, "rescale": "density"}

_MEANS = {
    "linear": MethodFacts(
        parameters=(the.WEIGHT,),
        options={"normalize": True},
        about="weighted mean of the models (model soup)",
        paper="Wortsman et al. 2022, https://arxiv.org/abs/2203.05482",
    ),
    "slerp": MethodFacts(
        parameters=(the.T,),
        num_sources=2,
        about="point on the arc between two models",
        paper="Shoemake 1985, https://doi.org/10.1145/325334.325242",
    ),
    "nuslerp": MethodFacts(
        parameters=(the.WEIGHT,),
        options={"use_base": False, "nuslerp_flatten": True, "nuslerp_row_wise": False},
        num_sources=2,
        about="point on the arc between two models or task vectors, whole or by rows",
        paper="Goddard et al. 2024, https://arxiv.org/abs/2403.13257",
    ),
    "multislerp": MethodFacts(
        parameters=(the.WEIGHT, the.EPS),
        options={"use_base": False, "normalize_weights": True},
        about="mean direction of the models or task vectors at their mean length",
        paper="Goddard, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    ),
    "karcher": MethodFacts(
        parameters=(the.SHARE, the.MAX_ITER, the.TOL),
        about="the direction nearest to all models along arcs, at their mean length",
        paper="Wang et al. 2026, https://arxiv.org/abs/2603.04972",
    ),
    "model_stock": MethodFacts(
        parameters=(),
        options={"filter_wise": False},
        least_sources=2,
        needs_base=True,
        about="mean of the models, drawn to the base by as much as they disagree",
        paper="Jang et al. 2024, https://arxiv.org/abs/2403.19522",
    ),
    "nearswap": MethodFacts(
        parameters=(the.DISTANCE,),
        num_sources=1,
        needs_base=True,
        about="base whose entries move to the source by a small distance at most",
        paper="alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    ),
    "arcee_fusion": MethodFacts(
        parameters=(the.FENCE,),
        num_sources=1,
        needs_base=True,
        about="base with those of the source's entries whose change is an outlier",
        paper="Arcee AI 2025, https://www.arcee.ai",
    ),
    "passthrough": MethodFacts(
        parameters=(the.SCALE,),
        num_sources=1,
        about="one model's tensor, scaled: layers of several models in a row",
        paper="Akiba et al. 2024, https://arxiv.org/abs/2403.13187",
    ),
}

_TASK_VECTORS = {
    "task_arithmetic": MethodFacts(
        parameters=(the.WEIGHT, the.LAMBDA),
        options={"normalize": False},
        needs_base=True,
        about="base plus weighted task vectors",
        paper="Ilharco et al. 2023, https://arxiv.org/abs/2212.04089",
    ),
    "ties": MethodFacts(
        parameters=(the.WEIGHT, the.DENSITY, the.LAMBDA),
        options=_TRIMMED,
        needs_base=True,
        about="task vectors trimmed by magnitude, summed where signs agree",
        paper="Yadav et al. 2023, https://arxiv.org/abs/2306.01708",
    ),
    "dare_linear": MethodFacts(
        parameters=(the.WEIGHT, the.DENSITY, the.LAMBDA),
        options=_DRAWN,
        needs_base=True,
        about="task vectors with entries dropped at random, rescaled and summed",
        paper="Yu et al. 2024, https://arxiv.org/abs/2311.03099",
    ),
    "dare_ties": MethodFacts(
        parameters=(the.WEIGHT, the.DENSITY, the.LAMBDA),
        options=_DRAWN,
        needs_base=True,
        about="task vectors with entries dropped at random, summed where signs agree",
        paper="Yu et al. 2024, https://arxiv.org/abs/2311.03099",
    ),
    "della_linear": MethodFacts(
        parameters=(the.WEIGHT, the.DELLA_DENSITY, the.EPSILON, the.LAMBDA),
        options=_DRAWN,
        needs_base=True,
        about="task vectors with small entries dropped more often than large ones, summed",
        paper="Deep et al. 2024, https://arxiv.org/abs/2406.11617",
    ),
    "della": MethodFacts(
        parameters=(the.WEIGHT, the.DELLA_DENSITY, the.EPSILON, the.LAMBDA),
        options=_DRAWN,
        needs_base=True,
        about="the same, summed where signs agree",
        paper="Deep et al. 2024, https://arxiv.org/abs/2406.11617",
    ),
    "breadcrumbs": MethodFacts(
        parameters=(the.WEIGHT, the.DENSITY, the.GAMMA, the.LAMBDA),
        options=_TRIMMED,
        needs_base=True,
        about="task vectors without their largest and smallest entries, summed",
        paper="Davari and Belilovsky 2024, https://arxiv.org/abs/2312.06795",
    ),
    "breadcrumbs_ties": MethodFacts(
        parameters=(the.WEIGHT, the.DENSITY, the.GAMMA, the.LAMBDA),
        options=_TRIMMED,
        needs_base=True,
        about="the same, summed where signs agree",
        paper="Davari and Belilovsky 2024, https://arxiv.org/abs/2312.06795",
    ),
    "sce": MethodFacts(
        parameters=(the.SELECT_TOPK,),
        needs_base=True,
        about="task vectors where sources differ most, weighted by their size, where signs agree",
        paper="Wan et al. 2024, https://arxiv.org/abs/2408.07990",
    ),
    "ram": MethodFacts(
        parameters=(the.SEARCHED_CHANGED,),
        needs_base=True,
        about="mean of the task vectors over the sources that changed an entry",
        paper="Yuan et al. 2026, https://arxiv.org/abs/2601.13572",
    ),
    "ramplus_tl": MethodFacts(
        parameters=(the.STRENGTH, the.ALPHA, the.CHANGED),
        needs_base=True,
        about="the same, with entries that only one source changed amplified",
        paper="Yuan et al. 2026, https://arxiv.org/abs/2601.13572",
    ),
}

METHODS = MethodRegistry(
    "merge method",
    {
        "linear": "workers.methods.linear:Linear",
        "slerp": "workers.methods.slerp:Slerp",
        "nuslerp": "workers.methods.nuslerp:NuSlerp",
        "multislerp": "workers.methods.multislerp:MultiSlerp",
        "karcher": "workers.methods.karcher:Karcher",
        "model_stock": "workers.methods.model_stock:ModelStock",
        "nearswap": "workers.methods.nearswap:NearSwap",
        "arcee_fusion": "workers.methods.arcee_fusion:ArceeFusion",
        "passthrough": "workers.methods.passthrough:Passthrough",
        "task_arithmetic": "workers.methods.task_arithmetic:TaskArithmetic",
        "ties": "workers.methods.ties:Ties",
        "dare_linear": "workers.methods.dare:DareLinear",
        "dare_ties": "workers.methods.dare:DareTies",
        "della_linear": "workers.methods.della:DellaLinear",
        "della": "workers.methods.della:Della",
        "breadcrumbs": "workers.methods.breadcrumbs:Breadcrumbs",
        "breadcrumbs_ties": "workers.methods.breadcrumbs:BreadcrumbsTies",
        "sce": "workers.methods.sce:Sce",
        "ram": "workers.methods.ram:Ram",
        "ramplus_tl": "workers.methods.ram:RamPlus",
    },
    {**_MEANS, **_TASK_VECTORS},
)
