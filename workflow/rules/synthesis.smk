# One job draws several shards from one loading of the model. A shard is complete when its json is there; both files
# are renamed into place, the json last, and finished shards are kept (`update`). The captions' age says nothing
# (`ancient`): what a file is made from is in its path's fingerprint, and more captions change no image that is there.
# The device is a resource, not a param: where images are drawn is no reason to draw them again.
for number, batch in enumerate(SHARD_BATCHES):

    rule:
        name:
            f"synthesis_{number}"
        input:
            lambda wildcards, batch=batch: [ancient(path) for unit in batch.captions for path in files(unit)],
        output:
            update(shard_outputs(batch)),
        log:
            f"{RESULTS}/logs/synthesis/{batch.name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/synthesis/{batch.name}.tsv"
        # A job that was stopped goes on where it was.
        retries: 1
        conda:
            "../../envs/t2ipal.yaml"
        threads: THREADS
        resources:
            mem_mb=4000,
            runtime=720,
            gpu=gpus(CONFIG.synthesis.device),
            device=CONFIG.synthesis.device,
        params:
            jobs=lambda wildcards, output, batch=batch: shard_jobs(batch),
        message:
            f"images of {len(batch.shards)} shards: {batch.name}"
        shell:
            "t2ipal synthesis --jobs {params.jobs:q} --device {resources.device:q} > {log:q} 2>&1"
