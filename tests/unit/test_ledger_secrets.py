"""The secrets of API keys: what is generated parses, and what was mistyped is refused without any I/O."""

from __future__ import annotations

import hashlib
import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.errors import AuthenticationError
from vecmeter.ledger.keys import generate_secret, parse_secret

BASE62 = string.digits + string.ascii_letters
secrets = st.sampled_from(["live", "test", "local"]).map(generate_secret)


@given(secrets)
def test_a_generated_secret_parses_to_its_id_and_hash(generated: tuple[str, str]) -> None:
    api_key_id, secret = generated
    credential = parse_secret(secret)
    assert credential.api_key_id == api_key_id
    assert credential.secret_hash == hashlib.sha256(secret.encode()).digest()


def test_a_secret_has_its_environment_in_it_and_at_least_128_bits_beside_the_id() -> None:
    api_key_id, secret = generate_secret("live")
    assert secret.startswith("vm_live_" + api_key_id.removeprefix("key_"))
    secret_characters = len(secret) - len("vm_live_") - 11 - 6
    assert 62**secret_characters >= 2**128


def test_generated_secrets_differ() -> None:
    generated = [generate_secret("live") for _ in range(1000)]
    assert len({api_key_id for api_key_id, _ in generated}) == 1000
    assert len({secret for _, secret in generated}) == 1000


@given(secrets, st.integers(0, 100), st.characters(codec="utf-8"))
def test_any_change_of_one_character_is_refused(generated: tuple[str, str], place: int, other: str) -> None:
    _, secret = generated
    place %= len(secret)
    if secret[place] == other:
        other = "A" if other != "A" else "B"
    with pytest.raises(AuthenticationError):
        parse_secret(secret[:place] + other + secret[place + 1 :])


def test_every_change_of_one_character_to_another_of_the_alphabet_is_refused() -> None:
    _, secret = generate_secret("live")
    for place, other in itertools.product(range(len(secret)), BASE62):
        if secret[place] != other:
            with pytest.raises(AuthenticationError):
                parse_secret(secret[:place] + other + secret[place + 1 :])


@given(secrets, st.integers(0, 100))
def test_two_neighbours_that_changed_places_are_refused(generated: tuple[str, str], place: int) -> None:
    _, secret = generated
    place %= len(secret) - 1
    swapped = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
    if swapped != secret:
        with pytest.raises(AuthenticationError):
            parse_secret(swapped)


@given(st.text() | secrets.map(lambda g: g[1] + "\n") | secrets.map(lambda g: " " + g[1]) | secrets.map(lambda g: g[0]))
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(AuthenticationError):
        parse_secret(text)


def test_all_refusals_read_the_same() -> None:
    _, secret = generate_secret("live")
    details = set()
    for wrong in ("", "vm_", secret[:-1], secret[:-1] + "~", secret[:8] + "0" * 39):
        with pytest.raises(AuthenticationError) as refused:
            parse_secret(wrong)
        details.add(refused.value.detail)
    assert len(details) == 1
