rule captions:
    output:
        ensure(f"{RESULTS}/captions/{{run}}/captions.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/captions/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/captions/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        settings=settings("captions"),
    message:
        "captions of {wildcards.run}"
    shell:
        "t2ipal captions --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
