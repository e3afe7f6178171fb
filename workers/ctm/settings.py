"""What a Continuous Thought Machine is made of. Importing this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Interval

from evaluators.ctm.inputs import Inputs, Numbers, Outputs, Phases

#: How pairs of neurons are chosen whose synchronisation is read.
Pairing: TypeAlias = Literal["dense", "semi_dense", "semi_dense_full", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CtmSettings:
    """Hyperparameters of a machine, with the symbols of the paper.

    (Darlow et al. 2025, https://arxiv.org/abs/2505.05522, section 3.)

    Raises:
        ValueError: if no machine can be made of them.
    """

    #: D: neurons.
    neurons: Annotated[int, Ge(1)]
    #: T: ticks of thought about each input.
    ticks: Annotated[int, Ge(1)]
    #: M: ticks of its own past that a neuron sees.
    memory: Annotated[int, Ge(1)]
    #: Private models of neurons: two layers, one, or none at all (an ablation).
    neuron_model: Literal["deep", "shallow", "none"] = "deep"
    #: H: hidden units of a deep neuron model.
    hidden: Annotated[int, Ge(1)] = 8
    #: k: 1 is one gated layer; more are a U-Net of k - 1 layers down and k - 1 up.
    synapse_depth: Annotated[int, Ge(1)] = 1
    #: d_in: width of attention, a multiple of `heads`. Without effect where nothing is attended to.
    attention_width: Annotated[int, Ge(1)] = 32
    heads: Annotated[int, Ge(1)] = 1
    #: How neurons are paired. `dense`: all pairs of the first (answers) and of the last neurons
    #: (actions). `semi_dense`: of two lists of random neurons, the upper triangle of their table,
    #: or all of it (`semi_dense_full`). `random`: random pairs.
    pairing: Pairing = "dense"
    #: J_out and J_act: neurons of dense and semi-dense pairing; or the number of random pairs.
    num_output: Annotated[int, Ge(1)] = 16
    num_action: Annotated[int, Ge(1)] = 16
    #: How many of the random pairs pair a neuron with itself.
    self_pairs: Annotated[int, Ge(0)] = 0
    dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0
    #: False reads answers and queries from the neurons themselves (an ablation).
    synchronise: bool = True
    inputs: Inputs
    outputs: Outputs

    def __post_init__(self) -> None:
        if self.attends and self.attention_width % self.heads:
            raise ValueError(
                f"heads: {self.heads} do not divide an attention_width of {self.attention_width}"
            )
        if self.pairing == "dense" and self.neurons < self.num_output + self.num_action:
            raise ValueError(
                f"neurons: dense pairing of {self.num_output} and {self.num_action} neurons needs "
                f"at least {self.num_output + self.num_action}, got {self.neurons}"
            )
        if self.pairing == "random" and self.self_pairs > min(self.num_output, self.num_action):
            raise ValueError(
                f"self_pairs: {self.self_pairs} of {self.num_output} and {self.num_action} pairs"
            )

    @property
    def phases(self) -> int:
        """How many inputs come one after another, each for all ticks."""
        return len(self.inputs.order) if isinstance(self.inputs, Phases) else 1

    @property
    def attends(self) -> bool:
        """Whether there is anything to attend to."""
        return not isinstance(self.inputs, Numbers)

    @property
    def input_width(self) -> int:
        """Width of what a tick gets beside the neurons' own state."""
        return self.inputs.size if isinstance(self.inputs, Numbers) else self.attention_width

    @property
    def read_size(self) -> int:
        """Numbers that the answer is read from."""
        return self._entries(self.num_output)

    @property
    def query_size(self) -> int:
        """Numbers that the query is read from."""
        return self._entries(self.num_action)

    @property
    def synapse_widths(self) -> tuple[int, ...]:
        """Widths of the U-Net's levels, from all neurons down to 16."""
        steps = max(1, self.synapse_depth - 1)
        return tuple(
            int(self.neurons + (16 - self.neurons) * level / steps)
            for level in range(self.synapse_depth)
        )

    def _entries(self, size: int) -> int:
        if not self.synchronise:
            return self.neurons
        if self.pairing == "random":
            return size
        return size * size if self.pairing == "semi_dense_full" else size * (size + 1) // 2
