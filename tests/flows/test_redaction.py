from flows.redaction import redact


def test_the_value_of_a_variable_named_like_a_secret_never_passes():
    environment = {"HF_TOKEN": "planted-secret", "HOME": "/root/home", "SHORT_TOKEN": "abc"}
    assert redact("key planted-secret in /root/home abc", environment) == "key <HF_TOKEN> in /root/home abc"
