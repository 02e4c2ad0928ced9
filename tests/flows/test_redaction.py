from flows.redaction import redact


def test_the_value_of_a_variable_named_like_a_secret_never_passes():
    environment = {"HF_TOKEN": "planted-secret", "HOME": "/home/me", "SHORT_TOKEN": "abc"}
    assert redact("key planted-secret in /home/me abc", environment) == "key <HF_TOKEN> in /home/me abc"
