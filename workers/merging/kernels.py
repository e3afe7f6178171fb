"""The loops that must run at the speed of memory, compiled by numba for the CPU.

Each reads every source once and writes the result once, with all that lies between in registers
and a first cache. Tensors are float32 or bfloat16, the latter seen as its bits: the upper half of
a float32. Compiled code is kept on disk, so that only the first worker on a machine waits for it;
all of it is in one file, because numba takes no notice of changes in others.
"""

# What numba's decorators make of functions has no types that could be checked.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import extending, types
from numba.core import cgutils

#: Entries that one thread handles before it goes on: their sums lie within a first cache.
_CHUNK = 8192
#: The same where several sums are held for each source.
_SMALL_CHUNK = 2048
_WORD = ir.IntType(32)
#: Bits of the least float32 that bfloat16 cannot hold; infinity and NaN are above.
_ROUNDS_TO_INFINITY = np.uint32(0x7F7F8000)
_INFINITY = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)

_carray: Any = numba.carray  # type: ignore[attr-defined]
#: One kernel at a time runs in a process: this layer's threads take no turns by themselves. Unlike
#: OpenMP's they do not spin while they wait, which on a busy machine costs many times the work.
if "NUMBA_THREADING_LAYER" not in os.environ:
    numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
_intrinsic: Any = extending.intrinsic
_overload: Any = extending.overload
_inlined: Any = numba.njit(inline="always")
_inner: Any = numba.njit
_TURN = threading.Lock()


def _searching(function: Callable[..., Any]) -> Any:
    """Compiles a loop that one thread runs."""
    return _compile(function, parallel=False)


def _compile(function: Callable[..., Any], *, parallel: bool) -> Any:
    try:
        return numba.njit(parallel=parallel, cache=True)(function)
    except RuntimeError:  # no folder to keep it in: each process compiles for itself
        return numba.njit(parallel=parallel)(function)


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a loop for all threads and keeps it on disk; callers wait for their turn."""
    compiled = _compile(function, parallel=True)

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        with _TURN:
            return compiled(*arguments)

    return run


@_intrinsic
def _pointer(_: Any, address: Any) -> Any:
    """Reinterprets an address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@_intrinsic
def _widen(_: Any, entry: Any) -> Any:
    """Returns a stored entry as float32: bfloat16 bits widened, float32 as it is."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if entry == types.float32:
            return arguments[0]
        word = builder.shl(builder.zext(arguments[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(entry), generate


@_intrinsic
def _bits(_: Any, number: Any) -> Any:
    """Returns the bits of a float32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _WORD)

    return types.uint32(types.float32), generate


def _narrow(number: Any, like: Any) -> Any:
    """Returns a float32 as it is stored beside `like`: bfloat16 rounds ties to even."""


@_overload(_narrow, inline="always")
def _narrow_of(number: Any, like: Any) -> Any:
    def keep(number: Any, like: Any) -> Any:
        return number

    def halve(number: Any, like: Any) -> Any:
        word = _bits(number)
        odd = (word >> np.uint32(16)) & np.uint32(1)
        return np.uint16(np.uint32(word + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return keep if like.dtype == types.float32 else halve


def _bound(like: Any) -> Any:
    """Returns the bits of the least magnitude that is not finite when stored beside `like`."""


@_overload(_bound, inline="always")
def _bound_of(like: Any) -> Any:
    def single(like: Any) -> Any:
        return _INFINITY

    def half(like: Any) -> Any:
        return _ROUNDS_TO_INFINITY

    return single if like.dtype == types.float32 else half


@_inner
def _entries(address: Any, start: Any, stop: Any, like: Any) -> Any:
    """Returns some entries of the tensor at an address, of the type of `like`."""
    return _carray(_pointer(address), stop, like.dtype)[start:stop]


# --- sum_k f_k x_k ---------------------------------------------------------------------------


@_inner
def _scale(sums: Any, entries: Any, factor: Any) -> None:
    for i in range(sums.size):
        sums[i] = _widen(entries[i]) * factor


@_inner
def _add(sums: Any, entries: Any, factor: Any) -> None:
    for i in range(sums.size):
        sums[i] += _widen(entries[i]) * factor


@_inner
def _write(sums: Any, out: Any) -> Any:
    """Stores sums; returns 1 if one of them is infinite or no number."""
    top = np.uint32(0)
    for i in range(sums.size):
        top = max(top, _bits(sums[i]) & _MAGNITUDE)
        out[i] = _narrow(sums[i], out)
    return int(top >= _bound(out))


@_inner
def _sum_four(a: Any, b: Any, c: Any, d: Any, factors: Any, out: Any) -> Any:
    """Sums four tensors in one pass, which is nearly twice as fast as one after another."""
    first, second, third, fourth = factors[0], factors[1], factors[2], factors[3]
    top = np.uint32(0)
    for i in range(out.size):
        total = _widen(a[i]) * first + _widen(b[i]) * second
        total += _widen(c[i]) * third
        total += _widen(d[i]) * fourth
        top = max(top, _bits(total) & _MAGNITUDE)
        out[i] = _narrow(total, out)
    return int(top >= _bound(out))


@_inner
def _combine(addresses: Any, factors: Any, out: Any, start: Any, stop: Any, like: Any) -> Any:
    """Sums some entries of one tensor; returns 1 if one of them is infinite or no number."""
    target = _entries(out, start, stop, like)
    if addresses.size == 4:
        a = _entries(addresses[0], start, stop, like)
        b = _entries(addresses[1], start, stop, like)
        c = _entries(addresses[2], start, stop, like)
        d = _entries(addresses[3], start, stop, like)
        return _sum_four(a, b, c, d, factors, target)
    sums = np.empty(stop - start, np.float32)
    _scale(sums, _entries(addresses[0], start, stop, like), factors[0])
    for k in range(1, addresses.size):
        _add(sums, _entries(addresses[k], start, stop, like), factors[k])
    return _write(sums, target)


@_kernel
def combine(addresses: Any, factors: Any, outs: Any, counts: Any, like: Any, bad: Any) -> None:
    """Writes sum_k f_k x_k, summed in float32, for many tensors in one go.

    Threads are started once for all of them: for a tensor of a million entries that takes as long
    as the sum itself.

    Args:
        addresses: int64, (tensors, sources): where each source's entries begin; four or more
            sources, of which any may be there with the factor 0.
        factors: float32, (tensors, sources).
        outs: int64, (tensors,): where each result's entries begin.
        counts: int64, (tensors,): entries.
        like: An array of the entries' type: float32, or uint16 for the bits of bfloat16.
        bad: int64, (tensors,): is raised above 0 where an entry is not finite.
    """
    ends = np.cumsum((counts + _CHUNK - 1) // _CHUNK)
    for chunk in numba.prange(ends[-1]):
        tensor = np.searchsorted(ends, chunk, side="right")
        first = ends[tensor - 1] if tensor > 0 else 0
        start = (chunk - first) * _CHUNK
        stop = min(start + _CHUNK, counts[tensor])
        if _combine(addresses[tensor], factors[tensor], outs[tensor], start, stop, like):
            bad[tensor] = 1


# --- Random numbers of places (see `noise`) --------------------------------------------------


@_inlined
def _mix(word: Any) -> Any:
    word ^= word >> np.uint32(16)
    word = np.uint32(word * np.uint32(0x21F0AAAD))
    word ^= word >> np.uint32(15)
    word = np.uint32(word * np.uint32(0x735A2D97))
    return np.uint32(word ^ (word >> np.uint32(15)))


@_inner
def _draw(out: Any, start: Any, first: Any, second: Any) -> None:
    for i in range(out.size):
        word = _mix(np.uint32(np.uint32(np.uint32(start) + np.uint32(i)) ^ first))
        word = _mix(np.uint32(word ^ second))
        out[i] = np.float32(word >> np.uint32(8)) * np.float32(2.0**-24)


@_kernel
def fill_uniform(out: Any, start: Any, first: Any, second: Any) -> None:
    """Writes the numbers in [0, 1) of the places from `start` on.

    Args:
        out: float32, (entries,).
        start: Place of the first entry.
        first: First word of the key.
        second: Second word of the key.
    """
    for chunk in numba.prange((out.size + _CHUNK - 1) // _CHUNK):
        at = chunk * _CHUNK
        part = out[at : min(at + _CHUNK, out.size)]
        _draw(part, start + at, np.uint32(first), np.uint32(second))


# --- theta_0 + scale * sum of task vectors, thinned out and elected --------------------------


@_inner
def _delta(parts: Any, entries: Any, base: Any) -> None:
    for i in range(parts.size):
        parts[i] = _widen(entries[i]) - base[i]


@_inner
def _cut(parts: Any, start: Any, threshold: Any, last: Any, is_kept: Any) -> None:
    """Zeroes what a cut does not keep, or what it keeps where `is_kept` is false."""
    if start + parts.size - 1 <= last:  # every tied entry is kept
        for i in range(parts.size):
            parts[i] = parts[i] if (abs(parts[i]) >= threshold) == is_kept else np.float32(0)
    elif last < start:  # none is
        for i in range(parts.size):
            parts[i] = parts[i] if (abs(parts[i]) > threshold) == is_kept else np.float32(0)
    else:
        for i in range(parts.size):
            size = abs(parts[i])
            inside = size > threshold or (size == threshold and start + i <= last)
            parts[i] = parts[i] if inside == is_kept else np.float32(0)


@_inner
def _drop(parts: Any, drawn: Any, density: Any, factor: Any) -> None:
    for i in range(parts.size):
        parts[i] = parts[i] * factor if drawn[i] < density else np.float32(0)


@_inner
def _weigh(parts: Any, weight: Any, total: Any) -> None:
    for i in range(parts.size):
        parts[i] *= weight
        total[i] += parts[i]


@_inner
def _vote(parts: Any, total: Any, chosen: Any) -> None:
    for i in range(parts.size):
        agrees = (parts[i] > 0) == (total[i] >= 0)
        chosen[i] += parts[i] if agrees else np.float32(0)


@_inner
def _count_votes(parts: Any, total: Any, weight: Any, shares: Any) -> None:
    for i in range(parts.size):
        agrees = (parts[i] > 0) == (total[i] >= 0) and parts[i] != 0
        shares[i] += weight if agrees else np.float32(0)


@_inner
def _share(chosen: Any, shares: Any) -> None:
    for i in range(chosen.size):
        chosen[i] /= np.float32(1) if abs(shares[i]) < np.float32(1e-8) else shares[i]


@_inner
def _thin(parts: Any, start: Any, term: Any, lasts: Any, key: Any, drawn: Any) -> None:
    """Zeroes what takes no part, and scales what does."""
    if term[1] >= 0:
        _cut(parts, start, term[1], lasts[0], True)
    if term[2] < np.inf:
        _cut(parts, start, term[2], lasts[1], False)
    if term[3] < 1:
        _draw(drawn, start, key[0], key[1])
        _drop(parts, drawn, term[3], term[4])
    elif term[4] != 1:
        _scale(parts, parts, term[4])


@_inner
def _elect(parts: Any, terms: Any, total: Any, is_shared: Any) -> None:
    """Replaces the whole sum by that of the parts which agree with its sign."""
    chosen = np.zeros(total.size, np.float32)
    for k in range(parts.shape[0]):
        _vote(parts[k], total, chosen)
    if is_shared:
        shares = np.zeros(total.size, np.float32)
        for k in range(parts.shape[0]):
            _count_votes(parts[k], total, terms[k, 0], shares)
        _share(chosen, shares)
    total[:] = chosen


@_kernel
def sum_tasks(
    addresses: Any, base: Any, terms: Any, lasts: Any, keys: Any, scale: Any, modes: Any, out: Any
) -> Any:
    """Writes theta_0 + scale * sum_k of thinned task vectors; returns whether all are finite.

    Args:
        addresses: int64, (sources,): where each source's entries begin.
        base: int64: where the base's entries begin.
        terms: float32, (sources, 5): weight, threshold of what is kept (negative: everything),
            threshold of what is left out (infinite: nothing), density, factor of what is kept.
        lasts: int64, (sources, 2): the last place among ties of both thresholds.
        keys: uint32, (sources, 2): keys of random numbers.
        scale: float32.
        modes: bool, (2,): whether signs are elected, and whether sums are divided by the weights.
        out: (entries,), of the sources' type.
    """
    count = out.size
    infinite = 0
    for chunk in numba.prange((count + _SMALL_CHUNK - 1) // _SMALL_CHUNK):
        start = chunk * _SMALL_CHUNK
        stop = min(start + _SMALL_CHUNK, count)
        size = stop - start
        origin = np.empty(size, np.float32)
        _scale(origin, _entries(base, start, stop, out), np.float32(1))
        total = np.zeros(size, np.float32)
        parts = np.empty((addresses.size, size), np.float32)
        drawn = np.empty(size, np.float32)
        for k in range(addresses.size):
            _delta(parts[k], _entries(addresses[k], start, stop, out), origin)
            _thin(parts[k], start, terms[k], lasts[k], keys[k], drawn)
            _weigh(parts[k], terms[k, 0], total)
        if modes[0]:
            _elect(parts, terms, total, modes[1])
        _add(origin, total, scale)
        infinite += _write(origin, out[start:stop])
    return infinite == 0


# --- Magnitudes of task vectors, counted -----------------------------------------------------


@_kernel
def count_upper(a: Any, b: Any, like: Any, counts: Any) -> None:
    """Counts the upper 16 bits of |a - b|.

    Args:
        a: int64: where one tensor's entries begin.
        b: int64: where the other's begin.
        like: (entries,), of both tensors' type; only its size and type are used.
        counts: int64, (threads, 65536): filled by a range of entries each.
    """
    for thread in numba.prange(counts.shape[0]):
        start = like.size * thread // counts.shape[0]
        stop = like.size * (thread + 1) // counts.shape[0]
        ours, theirs = _entries(a, start, stop, like), _entries(b, start, stop, like)
        row = counts[thread]
        for i in range(stop - start):
            size = _bits(abs(_widen(ours[i]) - _widen(theirs[i])))
            row[size >> np.uint32(16)] += 1


@_inner
def _magnitudes(ours: Any, theirs: Any, sizes: Any) -> None:
    for i in range(sizes.size):
        sizes[i] = _bits(abs(_widen(ours[i]) - _widen(theirs[i])))


@_inner
def _count_low(sizes: Any, upper: Any, row: Any) -> None:
    for i in range(sizes.size):
        if sizes[i] >> np.uint32(16) == upper:
            row[sizes[i] & np.uint32(0xFFFF)] += 1


@_inner
def _tally(sizes: Any, keys: Any, counts: Any, held: Any) -> Any:
    """Counts values in a hash table with open addressing; returns how many kinds it holds.

    A key of 0 marks a free slot: zeros, the most frequent value by far, are counted apart. More
    kinds than half of the slots are not taken in, and told by a number beyond that half.
    """
    mask = np.uint32(keys.size - 1)
    for i in range(sizes.size):
        key = sizes[i]
        if key == 0:
            continue
        slot = (np.uint32(key * np.uint32(2654435769)) >> np.uint32(13)) & mask
        while keys[slot] != key and keys[slot] != 0:
            slot = (slot + np.uint32(1)) & mask
        if keys[slot] == 0:
            if held >= keys.size // 2:
                return keys.size
            keys[slot] = key
            held += 1
        counts[slot] += 1
    return held


@_kernel
def count_kinds(a: Any, b: Any, like: Any, keys: Any, counts: Any, held: Any) -> None:
    """Counts each value of |a - b| other than 0, as long as there are few kinds.

    Differences of bfloat16 numbers take few values: thousands among millions of entries.

    Args:
        a: int64: where one tensor's entries begin.
        b: int64: where the other's begin.
        like: (entries,), of both tensors' type; only its size and type are used.
        keys: uint32, (ranges, a power of 2), zeros: is filled with bits, by a range each.
        counts: int64, of the same shape, zeros.
        held: int64, (ranges,): kinds found; more than half of the slots means too many.
    """
    for part in numba.prange(held.size):
        start = like.size * part // held.size
        stop = like.size * (part + 1) // held.size
        sizes = np.empty(_SMALL_CHUNK, np.uint32)
        kinds = 0
        for at in range(start, stop, _SMALL_CHUNK):
            end = min(at + _SMALL_CHUNK, stop)
            seen = sizes[: end - at]
            _magnitudes(_entries(a, at, end, like), _entries(b, at, end, like), seen)
            kinds = _tally(seen, keys[part], counts[part], kinds)
            if kinds > keys.shape[1] // 2:
                break
        held[part] = kinds


@_kernel
def count_lower(a: Any, b: Any, like: Any, upper: Any, counts: Any) -> None:
    """Counts the lower 16 bits of those |a - b| whose upper 16 bits are `upper`.

    Args:
        a: int64: where one tensor's entries begin.
        b: int64: where the other's begin.
        like: (entries,), of both tensors' type; only its size and type are used.
        upper: uint32.
        counts: int64, (threads, 65536): filled by a range of entries each.
    """
    for thread in numba.prange(counts.shape[0]):
        start = like.size * thread // counts.shape[0]
        stop = like.size * (thread + 1) // counts.shape[0]
        sizes = np.empty(_SMALL_CHUNK, np.uint32)
        for at in range(start, stop, _SMALL_CHUNK):
            end = min(at + _SMALL_CHUNK, stop)
            seen = sizes[: end - at]
            _magnitudes(_entries(a, at, end, like), _entries(b, at, end, like), seen)
            _count_low(seen, upper, counts[thread])


@_kernel
def count_equal(a: Any, b: Any, like: Any, threshold: Any, counts: Any) -> None:
    """Counts the |a - b| that equal a float32 in each of `counts.size` ranges of entries."""
    for part in numba.prange(counts.size):
        start = like.size * part // counts.size
        stop = like.size * (part + 1) // counts.size
        ours, theirs = _entries(a, start, stop, like), _entries(b, start, stop, like)
        found = 0
        for i in range(stop - start):
            found += int(abs(_widen(ours[i]) - _widen(theirs[i])) == threshold)
        counts[part] = found


@_searching
def place_equal(a: Any, b: Any, like: Any, threshold: Any, start: Any, wanted: Any) -> Any:
    """Returns the place of the `wanted`-th |a - b| from `start` on that equals a float32."""
    ours, theirs = _entries(a, 0, like.size, like), _entries(b, 0, like.size, like)
    for i in range(start, like.size):
        if abs(_widen(ours[i]) - _widen(theirs[i])) == threshold:
            wanted -= 1
            if wanted == 0:
                return i
    return -1


@_inner
def _l1(parts: Any) -> Any:
    total = 0.0
    for i in range(parts.size):
        total += abs(np.float64(parts[i]))
    return total


@_kernel
def thinned_l1(
    address: Any, base: Any, term: Any, lasts: Any, key: Any, like: Any, sums: Any
) -> None:
    """Writes the L1 norms of a thinned task vector over ranges of entries.

    Args:
        address: int64: where the source's entries begin.
        base: int64: where the base's begin.
        term: float32, (5,): as in `sum_tasks`; the weight takes no part.
        lasts: int64, (2,): as in `sum_tasks`.
        key: uint32, (2,): as in `sum_tasks`.
        like: (entries,), of both tensors' type; only its size and type are used.
        sums: float64, (ranges,): as many as the caller likes, whatever the number of threads.
    """
    for part in numba.prange(sums.size):
        start = like.size * part // sums.size
        stop = like.size * (part + 1) // sums.size
        origin = np.empty(_SMALL_CHUNK, np.float32)
        vector = np.empty(_SMALL_CHUNK, np.float32)
        drawn = np.empty(_SMALL_CHUNK, np.float32)
        total = 0.0
        for at in range(start, stop, _SMALL_CHUNK):
            size = min(_SMALL_CHUNK, stop - at)
            _scale(origin[:size], _entries(base, at, at + size, like), np.float32(1))
            _delta(vector[:size], _entries(address, at, at + size, like), origin[:size])
            _thin(vector[:size], at, term, lasts, key, drawn[:size])
            total += _l1(vector[:size])
        sums[part] = total


# --- What is known of whole tensors ----------------------------------------------------------


@_inner
def _dot(ours: Any, theirs: Any, origin: Any, is_delta: Any) -> Any:
    total = 0.0
    if is_delta:
        for i in range(ours.size):
            base = _widen(origin[i])
            total += np.float64(_widen(ours[i]) - base) * np.float64(_widen(theirs[i]) - base)
    else:
        for i in range(ours.size):
            total += np.float64(_widen(ours[i])) * np.float64(_widen(theirs[i]))
    return total


@_kernel
def dot(a: Any, b: Any, base: Any, like: Any, is_delta: Any, sums: Any) -> None:
    """Writes the inner products of two tensors, or of two task vectors, over ranges of entries.

    Args:
        a: int64: where one tensor's entries begin.
        b: int64: where the other's begin.
        base: int64: where the base's begin, if these are task vectors; else any of the others.
        like: (entries,), of the tensors' type; only its size and type are used.
        is_delta: Whether the base is taken off both.
        sums: float64, (ranges,): as many as the caller likes, whatever the number of threads.
    """
    for part in numba.prange(sums.size):
        start = like.size * part // sums.size
        stop = like.size * (part + 1) // sums.size
        ours, theirs = _entries(a, start, stop, like), _entries(b, start, stop, like)
        sums[part] = _dot(ours, theirs, _entries(base, start, stop, like), is_delta)


@_inner
def _top(entries: Any) -> Any:
    top = np.uint32(0)
    for i in range(entries.size):
        top = max(top, _bits(_widen(entries[i])) & _MAGNITUDE)
    return int(top >= _INFINITY)


@_kernel
def all_finite(entries: Any) -> Any:
    """Returns whether all entries are numbers.

    Args:
        entries: (entries,): float32, or uint16 for the bits of bfloat16.
    """
    infinite = 0
    for chunk in numba.prange((entries.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        infinite += _top(entries[start : min(start + _CHUNK, entries.size)])
    return infinite == 0


def use_threads(count: int) -> None:
    """Lets the kernels called from this thread use so many threads, as far as there are so many."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(count, most)))
