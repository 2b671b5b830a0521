# One job per group of models that learn from the same features, loaded once. What is there already is kept
# (`update`): a method or seed more trains that model only. The function of
# `output` tells Snakemake that another group is no reason to rerun.
for number, batch in batches_of("training"):

    rule:
        name:
            f"training_{number}"
        input:
            lambda wildcards, batch=batch: batch_inputs(batch),
        output:
            update(batch_outputs(batch)),
        log:
            f"{RESULTS}/logs/training/{batch.name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/training/{batch.name}.tsv"
        conda:
            "../../envs/t2ipal.yaml"
        threads: THREADS
        resources:
            mem_mb=memory(demands.encoder_memory(batch.units[0].settings["features"]["backbone"])),
            runtime=minutes(240),
            gpu=lambda wildcards, batch=batch: gpus(operation(batch.units[0])["device"]),
            gpu_model=lambda wildcards, batch=batch: gpu_type(operation(batch.units[0])["device"]),
            device=operation(batch.units[0])["device"],
        params:
            jobs=lambda wildcards, output, batch=batch: training_jobs(batch),
        message:
            f"training of {len(batch.units)} models: {batch.name}"
        shell:
            "t2ipal training --jobs {params.jobs:q} --device {resources.device:q} > {log:q} 2>&1"
