# One job per group of models, which loads the test features once. The fingerprint names the unit in every record.
for number, batch in batches_of("evaluation"):

    rule:
        name:
            f"evaluation_{number}"
        input:
            lambda wildcards, batch=batch: batch_inputs(batch),
        output:
            update(batch_outputs(batch)),
        log:
            f"{RESULTS}/logs/evaluation/{batch.name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluation/{batch.name}.tsv"
        conda:
            "../../envs/t2ipal.yaml"
        threads: THREADS
        resources:
            mem_mb=memory(4000),
            runtime=minutes(120),
        params:
            jobs=lambda wildcards, output, batch=batch: evaluation_jobs(batch),
            features=lambda wildcards, batch=batch: files(upstream(batch.units[0], "features")),
        message:
            f"evaluation of {len(batch.units)} models: {batch.name}"
        shell:
            "t2ipal evaluation --jobs {params.jobs:q} {params.features:q} > {log:q} 2>&1"
