"""Philox against its published vectors, and the noise against a transcription in Python integers."""

import math

import pytest
import torch

from fastsemi.kernels.reference.noise import erase_noise, philox

# The known-answer vectors that Random123 ships for philox4x32-10: counter, key, result.
VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def slow_philox(counter, key):
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 % 2**32, (p0 >> 32) ^ c[3] ^ k1, p0 % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(counter, key, expected):
    assert philox(torch.tensor(counter), torch.tensor(key)).tolist() == expected
    assert slow_philox(counter, key) == expected


def test_philox_broadcasts_keys_over_counters():
    counter = torch.randint(2**32, (5, 1, 4))
    key = torch.randint(2**32, (3, 2))
    words = philox(counter, key)
    assert words.shape == (5, 3, 4)
    assert words[4, 2].tolist() == slow_philox(counter[4, 0].tolist(), key[2].tolist())


@pytest.mark.parametrize("size", [1, 3, 7])
def test_noise_is_box_muller_of_the_words(size):
    key = torch.tensor([[0, 0], [2**32 - 1, 12345]])
    noise = erase_noise(key, size, "cpu")
    assert noise.shape == (2, size, size, 3) and noise.dtype == torch.float32
    for sample, words_key in enumerate(key.tolist()):
        for pixel in range(size * size):
            words = slow_philox([pixel, 0, 0, 0], words_key)
            u = [((word >> 9) + 0.5) / 2**23 for word in words]
            r, q = math.sqrt(-2 * math.log(u[0])), math.sqrt(-2 * math.log(u[2]))
            a, b = 2 * math.pi * u[1], 2 * math.pi * u[3]
            expected = [r * math.cos(a), r * math.sin(a), q * math.cos(b)]
            assert noise[sample, pixel // size, pixel % size].tolist() == pytest.approx(expected, abs=2e-6)


def test_noise_is_standard_normal_and_uncorrelated():
    channels = erase_noise(torch.tensor([[7, 8]]), 256, "cpu").reshape(-1, 3).double()
    assert channels.mean(0).abs().max() < 0.02
    assert (torch.cov(channels.T) - torch.eye(3, dtype=torch.float64)).abs().max() < 0.02
    assert (channels.pow(4).mean(0) - 3).abs().max() < 0.1
    assert (torch.corrcoef(torch.stack([channels[1:, 0], channels[:-1, 0]]))[0, 1]).abs() < 0.02


def test_noise_differs_by_key_and_not_by_neighbours_in_the_batch():
    keys = torch.tensor([[1, 2], [1, 3], [2, 2]])
    noise = erase_noise(keys, 8, "cpu")
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], erase_noise(keys[1:2], 8, "cpu"))
