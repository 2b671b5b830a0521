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
        # A job that was stopped goes on where it was. On a cluster as a new one: not beside what is left of its time.
        retries: 2 if workflow.is_main_process else 0
        conda:
            "../../envs/t2ipal.yaml"
        threads: THREADS
        resources:
            mem_mb=memory(demands.synthesis_memory(CONFIG.synthesis)),
            runtime=minutes(lambda wildcards, batch=batch: demands.synthesis_minutes(CONFIG.synthesis, batch.images)),
            gpu=lambda wildcards, batch=batch: gpus(operation(batch.shards[0][0])["device"]),
            gpu_model=lambda wildcards, batch=batch: gpu_type(operation(batch.shards[0][0])["device"]),
            device=operation(batch.shards[0][0])["device"],
        params:
            jobs=lambda wildcards, output, batch=batch: shard_jobs(batch),
            # A function of `output` is no reason to rerun: where images wait to be written says nothing of them.
            scratch=lambda wildcards, output: ["--scratch", CONFIG.scratch] if CONFIG.scratch else [],
        message:
            f"images of {len(batch.shards)} shards: {batch.name}"
        # `exec`: a signal to all of a job's processes would end the shell before the images at hand are on disk.
        shell:
            "exec t2ipal synthesis --jobs {params.jobs:q} {params.scratch:q} --device {resources.device:q} > {log:q} 2>&1"
