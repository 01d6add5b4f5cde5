"""Networks: torsos, recurrent cells, heads, and their usual compositions. Flax Linen modules, hashable and static."""

from operant.nn.heads import CategoricalQHead, DuelingHead, PolicyHead, QHead, QuantileHead, ValueHead
from operant.nn.networks import ActorCritic
from operant.nn.recurrent import GRU, LSTM, unroll_backward
from operant.nn.torsos import MLP, Conv, ImpalaResNet, MinAtarCNN, NatureCNN, Torso

__all__ = [
    "ActorCritic",
    "CategoricalQHead",
    "Conv",
    "DuelingHead",
    "GRU",
    "ImpalaResNet",
    "LSTM",
    "MLP",
    "MinAtarCNN",
    "NatureCNN",
    "PolicyHead",
    "QHead",
    "QuantileHead",
    "Torso",
    "ValueHead",
    "unroll_backward",
]
