# One job per model. The fingerprint names the unit in every record of the results.
rule evaluation:
    input:
        model=lambda wildcards: files(upstream(unit("evaluation", wildcards), "training")),
        features=lambda wildcards: files(upstream(unit("evaluation", wildcards), "features")),
    output:
        scores=ensure(f"{RESULTS}/evaluation/{{run}}/scores.parquet", non_empty=True),
        metrics=ensure(f"{RESULTS}/evaluation/{{run}}/metrics.json", non_empty=True),
    log:
        f"{RESULTS}/logs/evaluation/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluation/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        settings=settings("evaluation"),
        fingerprint=lambda wildcards: unit("evaluation", wildcards).fingerprint,
        model=lambda wildcards: LAYOUT.directory(upstream(unit("evaluation", wildcards), "training")),
    message:
        "evaluation of {wildcards.run}"
    shell:
        "t2ipal evaluation --settings {params.settings:q} --model {params.model:q}"
        " --fingerprint {params.fingerprint} --output {output.metrics:q} {input.features:q} > {log:q} 2>&1"
