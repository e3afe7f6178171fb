"""Random numbers that belong to a place: entry i of a tensor has its number whoever asks for it.

A counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405, for the
idea): two rounds of a 32-bit integer hash over the entry's place and a key made of the recipe's
seed, the tensor's name and the source. Integer arithmetic is exact, so that any worker, device
and cut into blocks gives the same bits. The hash's two multipliers were found by search for low
bias (https://github.com/skeeto/hash-prospector).
"""

from __future__ import annotations

import hashlib

import torch

#: A pair of 32-bit words.
Key = tuple[int, int]

_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97


def key_of(seed: int, tensor: str, source: str) -> Key:
    """Returns the key of one source's tensor in a recipe."""
    text = f"{seed}|{tensor}|{source}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def uniform(key: Key, start: int, shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Returns numbers in [0, 1), float32, multiples of 2^-24, of the entries from `start` on."""
    rows = torch.Size(shape).numel()
    if torch.device(device).type == "cpu":
        from workers.merging import kernels

        drawn = torch.empty(rows)
        kernels.fill_uniform(drawn.numpy(), start, *key)
        return drawn.view(shape)
    return uniform_anywhere(key, start, rows, device).view(shape)


def uniform_anywhere(key: Key, start: int, count: int, device: str) -> torch.Tensor:
    """Returns the same numbers by torch's integer operations, which every device has."""
    bits = torch.arange(start, start + count, dtype=torch.int64, device=device)
    mixed = _wrap(bits.bitwise_and_(0xFFFFFFFF))
    for word in key:
        _mix(mixed.bitwise_xor_(_signed(word)))
    return mixed.bitwise_right_shift(8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def _mix(x: torch.Tensor) -> None:
    """Hashes 32-bit words in place. Shifts of signed words copy the sign, which is masked off."""
    x ^= (x >> 16) & 0xFFFF
    x *= _FIRST
    x ^= (x >> 15) & 0x1FFFF
    x *= _SECOND
    x ^= (x >> 15) & 0x1FFFF


def _wrap(words: torch.Tensor) -> torch.Tensor:
    """Returns unsigned 32-bit numbers held in int64 as the int32 of the same bits."""
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
