"""The numbers that merge methods take: what they are, where they may lie, what a search tries."""

from __future__ import annotations

from dataclasses import replace

from workers.methods.facts import Parameter

WEIGHT = Parameter(
    name="weight", per="source", default_bounds=(0.0, 1.5), about="share of the source"
)
#: A weight of directions on a sphere, which have no negative multiples; all alike where not given.
SHARE = replace(WEIGHT, default_bounds=(0.05, 1.0), low=0.0, default=1.0)
DENSITY = Parameter(
    name="density",
    per="source",
    default_bounds=(0.1, 1.0),
    low=0.0,
    high=1.0,
    open_low=True,
    neutral=1.0,
    default=1.0,
    about="share of the task vector's entries that is kept",
)
#: With `EPSILON`'s bounds every keep probability lies inside (0, 1).
DELLA_DENSITY = replace(DENSITY, default_bounds=(0.2, 0.8))
EPSILON = Parameter(
    name="epsilon",
    per="source",
    default_bounds=(0.0, 0.15),
    low=0.0,
    high=0.5,
    neutral=0.15,
    default=0.15,
    about="how far keep probabilities go above and below the density",
)
GAMMA = Parameter(
    name="gamma",
    per="source",
    default_bounds=(0.0, 0.1),
    low=0.0,
    high=1.0,
    neutral=0.01,
    default=0.01,
    about="share of the largest entries that is dropped",
)
LAMBDA = Parameter(
    name="lambda",
    per="merge",
    default_bounds=(0.0, 2.0),
    neutral=1.0,
    default=1.0,
    searched=False,
    about="factor of the merged task vector",
)
T = Parameter(
    name="t",
    per="merge",
    default_bounds=(0.0, 1.0),
    low=0.0,
    high=1.0,
    neutral=0.5,
    about="way from the first source (0) to the second (1)",
)
#: The author's own values lie between 1e-4 and 2.5e-3.
DISTANCE = Parameter(
    name="t",
    per="merge",
    default_bounds=(0.0, 0.0025),
    low=0.0,
    neutral=1e-4,
    about="how far an entry may move from the base to the source",
)
SCALE = Parameter(
    name="scale",
    per="merge",
    default_bounds=(0.5, 1.5),
    neutral=1.0,
    default=1.0,
    searched=False,
    about="factor of the tensor",
)
SELECT_TOPK = Parameter(
    name="select_topk",
    per="merge",
    default_bounds=(0.05, 1.0),
    low=0.0,
    high=1.0,
    neutral=1.0,
    default=1.0,
    about="share of the entries that is merged, those that differ most among the sources",
)
FENCE = Parameter(
    name="fence",
    per="merge",
    default_bounds=(0.0, 3.0),
    neutral=1.5,
    default=1.5,
    about="how many interquartile ranges above the median importance must lie",
)
CHANGED = Parameter(
    name="epsilon",
    per="merge",
    default_bounds=(0.0, 1e-3),
    low=0.0,
    neutral=1e-5,
    default=1e-5,
    searched=False,
    about="change above which an entry counts as changed by a source",
)
#: Searched where there is nothing else to search.
SEARCHED_CHANGED = replace(CHANGED, searched=True)
STRENGTH = Parameter(
    name="r",
    per="merge",
    default_bounds=(0.0, 1.0),
    low=0.0,
    neutral=0.1,
    default=0.1,
    about="how much entries that only one source changed are amplified",
)
ALPHA = Parameter(
    name="alpha",
    per="merge",
    default_bounds=(0.0, 1.0),
    low=0.0,
    neutral=0.2,
    default=0.2,
    about="limit of the overlap that counts for amplifying",
)
EPS = Parameter(
    name="eps",
    per="merge",
    default_bounds=(0.0, 0.1),
    low=0.0,
    neutral=1e-8,
    default=1e-8,
    searched=False,
    about="what is added to a source's norm before it is divided by it",
)
MAX_ITER = Parameter(
    name="max_iter",
    per="merge",
    default_bounds=(0.0, 20.0),
    low=0.0,
    high=1000.0,
    neutral=10.0,
    default=10.0,
    searched=False,
    about="most steps towards the mean; the whole part counts",
)
TOL = Parameter(
    name="tol",
    per="merge",
    default_bounds=(0.0, 0.1),
    low=0.0,
    high=1.0,
    neutral=1e-5,
    default=1e-5,
    searched=False,
    about="length of a step at which the mean is reached, in radians",
)
