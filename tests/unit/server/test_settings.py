"""Flags, variables and defaults: which one wins, what is refused, and what the error names."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from polyhead_server.errors import StartupError
from polyhead_server.settings import ServerSettings

OPTIONS = [setting for setting in fields(ServerSettings) if not setting.name.endswith("_limits")]
"""The fields that have a flag and a variable."""
NAMES = [setting.name for setting in OPTIONS]


def parser():
    made = argparse.ArgumentParser(allow_abbrev=False)
    ServerSettings.add_arguments(made)
    return made


def read(*flags, **environment):
    return ServerSettings.from_arguments(parser().parse_args(flags), environment)


def test_defaults_without_flags_and_variables():
    assert read() == ServerSettings()


def test_help_lists_every_flag_with_its_variable_and_default():
    text = " ".join(parser().format_help().split())
    for setting in OPTIONS:
        assert f"--{setting.name.replace('_', '-')}" in text
        note = f"[POLYHEAD_{setting.name.upper()}"
        assert note in text
        if setting.default not in (None, ""):
            assert f"{note}, default: " in text
    assert "-limits" not in text  # InlineLimits and the like have no flags
    for shown in ("default: 50051]", "default: 128MiB]", "default: on]", "default: off]"):
        assert shown in text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models", "some/where", Path("some/where")),
        ("host", "::1", "::1"),
        ("port", "0", 0),
        ("provider", "cpu", "cpu"),
        ("workers", "4", 4),
        ("threads", "3", 3),
        ("max_request_bytes", "64MiB", 64 << 20),
        ("max_response_bytes", "1GiB", 1 << 30),
        ("max_scores_bytes", "4096", 4096),
        ("max_queue_bytes", "2KiB", 2048),
        ("grace_s", "2.5", 2.5),
        ("log_format", "text", "text"),
        ("log_level", "INFO", "info"),
        ("provider", "Cpu", "cpu"),
    ],
)
def test_a_setting_is_read_from_its_flag_and_from_its_variable(name, text, value):
    flag, variable = f"--{name.replace('_', '-')}", f"POLYHEAD_{name.upper()}"
    assert getattr(read(flag, text), name) == value
    assert getattr(read(**{variable: text}), name) == value
    assert getattr(read(flag, text, **{variable: "unreadable"}), name) == value  # the flag wins


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_words_for_true_in_a_variable(text):
    assert read(POLYHEAD_SPINNING=text).spinning


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_words_for_false_in_a_variable(text):
    assert not read(POLYHEAD_REFLECTION=text).reflection
    assert read("--reflection", POLYHEAD_REFLECTION=text).reflection


def test_a_negated_flag_wins_over_its_variable():
    assert not read("--no-reflection", POLYHEAD_REFLECTION="1").reflection


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_counts_as_unset(name):
    assert read(**{f"POLYHEAD_{name.upper()}": ""}) == ServerSettings()


BAD = [
    ("port", "70000", "at most 65535"),
    ("port", "-1", "at least 0"),
    ("port", "http", "whole number such as 8"),
    ("port", "1" * 5000, "whole number"),
    ("workers", "0", "at least 1"),
    ("workers", "1000", "at most 256"),
    ("threads", "-1", "at least 0"),
    ("threads", "100000", "at most 1024"),
    ("threads", "1.5", "whole number"),
    ("max_concurrent_runs", "0", "at least 1"),
    ("max_concurrent_runs", "99999999999", "at most 1024"),
    ("max_queue_size", "-1", "at least 0"),
    ("max_queue_size", "99999999999", "at most 1000000"),
    ("max_queue_bytes", "1", "at least 1024"),
    ("max_request_bytes", "2GiB", "at most"),
    ("max_request_bytes", "1.5GiB", "64MiB"),
    ("max_response_bytes", "2GiB", "at most"),
    ("max_scores_bytes", "0", "at least 1024"),
    ("max_scores_bytes", str(2**63), "at most"),
    ("drain_delay_s", "nan", "at least 0"),
    ("drain_delay_s", "inf", "at most 86400"),
    ("grace_s", "soon", "number such as 2.5"),
    ("grace_s", "-1", "at least 0"),
    ("provider", "gpu", "auto, cpu, cuda"),
    ("versions", "newest", "latest, all"),
    ("log_level", "LOUD", "debug, info, warning, error"),
    ("spinning", "maybe", "1 or 0"),
]


@pytest.mark.parametrize(("name", "text", "fix"), BAD)
def test_an_invalid_variable_is_refused_by_name_with_the_fix(name, text, fix):
    variable = f"POLYHEAD_{name.upper()}"
    with pytest.raises(StartupError) as caught:
        read(**{variable: text})
    assert str(caught.value).startswith(variable)
    assert fix in str(caught.value)


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_a_variable_that_kubernetes_sets_beside_a_service_is_told_from_ours(name):
    variable = f"POLYHEAD_{name.upper()}"
    with pytest.raises(StartupError, match=f"{variable}: .*enableServiceLinks: false"):
        read(**{variable: "tcp://10.96.0.7:50051"})
    with pytest.raises(StartupError, match="whole number") as caught:
        read(**{variable: "http"})
    assert "Kubernetes" not in str(caught.value)


@pytest.mark.parametrize(("name", "text", "fix"), [bad for bad in BAD if bad[0] != "spinning"])
def test_an_invalid_flag_is_refused_by_name_with_the_fix(capsys, name, text, fix):
    flag = f"--{name.replace('_', '-')}"
    try:
        read(f"{flag}={text}")
    except StartupError as error:
        message = str(error)
    except SystemExit:  # argparse's way
        message = capsys.readouterr().err
    assert flag in message
    if name not in ("provider", "versions", "log_level"):  # argparse quotes choices its own way
        assert fix in message


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        (" , ", {}),
        ("device_id=1", {"device_id": "1"}),
        (" a = 1 , b=x=y ,", {"a": "1", "b": "x=y"}),
    ],
)
def test_provider_options_are_parsed(text, options):
    assert ServerSettings(provider_options=text).parsed_provider_options() == options


@pytest.mark.parametrize("text", ["device_id", "=1", "a=", "a=1,b"])
def test_invalid_provider_options_are_refused(text):
    with pytest.raises(StartupError, match=r"--provider-options .*NAME=VALUE"):
        ServerSettings(provider_options=text)


def test_settings_made_in_code_are_checked():
    with pytest.raises(StartupError, match="--max-concurrent-runs is 0; it must be at least 1"):
        ServerSettings(max_concurrent_runs=0)


def test_model_control_needs_a_single_worker():
    assert ServerSettings(model_control="explicit").workers == 1
    with pytest.raises(StartupError, match="choose --workers 1"):
        ServerSettings(model_control="explicit", workers=2)


def test_help_is_in_groups():
    parser = argparse.ArgumentParser()
    ServerSettings.add_arguments(parser)
    lines = parser.format_help().splitlines()
    titles = [line.removesuffix(":") for line in lines if line[:1].isalpha() and line[-1:] == ":"]
    assert titles[-5:] == ["models", "network", "resources", "limits", "operation"]
    assert lines[0].endswith("[FLAG ...]")


def test_misspelt_variables_are_found():
    environment = {
        "POLYHEAD_GRACE": "3",
        "POLYHEAD_TOKEN_FILE": "tokens",
        "POLYHEAD_PORT": "1",
        "POLYHEAD_TOKEN": "of a client",
        "POLYHEAD_CLIENT_TLS_CERT": "of a client",
        "POLYHEAD_SERVICE_PORT": "of Kubernetes",
        "POLYHEAD_PORT_50051_TCP_ADDR": "of Kubernetes",
        "GRACE_S": "of another program",
    }
    assert ServerSettings.misspelt_variables(environment) == {
        "POLYHEAD_GRACE": "POLYHEAD_GRACE_S",
        "POLYHEAD_TOKEN_FILE": "POLYHEAD_TOKENS_FILE",
    }
