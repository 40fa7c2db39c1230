import logging

import pytest

from jobs import redaction
from jobs.errors import JobError
from jobs.redaction import RedactingFormatter, learn_secrets, redact, redacted

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3a://AKIAIOSFODNN7EXAMPLE:abc/def+g@bucket/clips", "s3a://***@bucket/clips"),
        ("s3://key:se/cret@bucket/x@y", "s3://***@bucket/x@y"),
        ("sftp://user:pass@host:22/clips does not exist", "sftp://***@host:22/clips does not exist"),
        ("hdfs://nn:8020/data/me@host", "hdfs://nn:8020/data/me@host"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("https://a.blob/x?sv=1&sig=abc%2Bdef&se=2", "https://a.blob/x?sv=1&***&se=2"),
        ("https://b/x?X-Amz-Credential=AKIA/1&X-Amz-Signature=00ff", "https://b/x?***&***"),
        ("the key AKIAIOSFODNN7EXAMPLE is not valid", "the key *** is not valid"),
        ("12:30:00 semdedup INFO me@host", "12:30:00 semdedup INFO me@host"),
    ],
)
def test_secrets_in_addresses_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "PGPASSWORD",
        "spark.hadoop.fs.s3a.secret.key", "fs.s3a.access.key", "fs.azure.account.key.x.dfs.core.windows.net",
        "spark.hadoop.fs.azure.sas.c.a.blob.core.windows.net", "spark.authenticate.secret", "API_KEY",
    ],
)  # fmt: skip
def test_the_values_of_settings_with_secret_names_are_hidden(name: str) -> None:
    learn_secrets([(name, SECRET)])
    for form in (SECRET, SECRET.replace("/", "%2F").replace("+", "%2B")):
        assert redact(f"could not sign with {form}: denied") == "could not sign with ***: denied"


def test_other_settings_are_not_secrets() -> None:
    learn_secrets([
        ("spark.hadoop.fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"),
        ("spark.yarn.access.hadoopFileSystems", "hdfs://other"),
        ("spark.security.credentials.hive.enabled", "unlikely"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json"),
        ("API_TOKEN", "no"),
        ("HOME", "/home/me"),
    ])  # fmt: skip
    text = (
        "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider hdfs://other unlikely /home/me/key.json no /home/someone"
    )
    assert redact(text) == text


def test_json_errors_and_log_lines_are_redacted() -> None:
    learn_secrets([("password", SECRET)])
    assert redacted({"a": [SECRET, {"b": f"x{SECRET}"}], "n": 1, "t": (SECRET,)}) == {
        "a": ["***", {"b": "x***"}], "n": 1, "t": ["***"],
    }  # fmt: skip
    assert str(JobError(f"--output-path s3a://a:{SECRET}@b: no")) == "--output-path s3a://***@b: no"
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "%s", (SECRET,), logging.sys.exc_info())  # type: ignore[attr-defined]
    shown = RedactingFormatter("%(message)s").format(record)
    assert shown.startswith("***")
    assert "ValueError: ***" in shown
    assert SECRET not in shown
