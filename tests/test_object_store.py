"""
The workflow with its files in an object store and no shared file system, as on Kubernetes.

What a stage reads by its settings (texts, a model's folder) it reads where the configuration says,
so that must be on every machine, too; what jobs hand to each other goes through the store.
Skipped unless `pip install "moto[server]" -e ".[kubernetes]"` was done: an S3 in this process.
"""

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STORE = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@pytest.fixture
def store():
    """The address of an S3 with a bucket `study`, and a client of it."""
    pytest.importorskip("snakemake_storage_plugin_s3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    import boto3

    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **STORE)
    client.create_bucket(Bucket="study")
    yield f"http://{host}:{port}", client
    server.stop()


def test_what_jobs_hand_to_each_other_goes_through_an_object_store(store, tmp_path):
    address, client = store
    for book in ("macbeth", "the-tempest", "emma", "hamlet"):
        text = lzma.decompress((ROOT / f"resources/books/{book}.txt.xz").read_bytes())[:30_000]
        client.put_object(Bucket="study", Key=f"run/excerpts/{book}.txt", Body=text)
        (tmp_path / f"excerpts/{book}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / f"excerpts/{book}.txt").write_bytes(text)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    factors = "results/micro/base/factors/yarn/256/factors.json"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", str(ROOT / "tests/data/micro.yaml"), "--cores", "1"]
    command += ["--default-storage-provider", "s3", "--default-storage-prefix", "s3://study/run"]
    command += ["--storage-s3-endpoint-url", address, "--shared-fs-usage", "none"]
    secrets = {
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key",
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "secret",
    }
    result = subprocess.run(
        [*command, "--", factors, "results/micro/data/excerpts/train"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | secrets,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    kept = {each["Key"] for each in client.list_objects_v2(Bucket="study")["Contents"]}
    assert f"run/{factors}" in kept
    assert "run/results/micro/data/excerpts/train/manifest.json" in kept
    assert "run/results/micro/base/model/model.safetensors" in kept
    assert not (tmp_path / factors).exists()
