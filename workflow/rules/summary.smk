rule summary:
    input:
        lambda wildcards: outputs("evaluation"),
    output:
        records=ensure(f"{RESULTS}/summary.json", non_empty=True),
        csv=report(f"{RESULTS}/summary.csv", caption="../report/summary.rst", category="Results"),
        table=report(f"{RESULTS}/summary.txt", caption="../report/summary.rst", category="Results"),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    localrule: True
    conda:
        "../../envs/t2ipal.yaml"
    params:
        config=lambda wildcards: canonical_json(CONFIG.model_dump(mode="json")),
    message:
        "summary of all results"
    shell:
        "t2ipal summary --config-json {params.config:q} --output {output.records:q} > {log:q} 2>&1"


rule report:
    input:
        lambda wildcards: gap_outputs(),
        f"{RESULTS}/summary.json",
    output:
        report(ensure(f"{RESULTS}/report.html", non_empty=True), caption="../report/page.rst", category="Results"),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/t2ipal.yaml"
    params:
        config=lambda wildcards: canonical_json(CONFIG.model_dump(mode="json")),
    message:
        "report of all results"
    shell:
        "t2ipal report --config-json {params.config:q} --output {output:q} > {log:q} 2>&1"


# Tables and studies beside that of `eval_all`.
rule experiment:
    input:
        lambda wildcards: outputs("evaluation", wildcards.experiment),
    output:
        records=ensure(f"{RESULTS}/experiments/{{experiment}}.json", non_empty=True),
        csv=f"{RESULTS}/experiments/{{experiment}}.csv",
        table=report(
            f"{RESULTS}/experiments/{{experiment}}.txt",
            caption="../report/experiment.rst",
            category="Tables and studies",
            subcategory="{experiment}",
        ),
        figure=report(
            f"{RESULTS}/experiments/{{experiment}}.svg",
            caption="../report/experiment.rst",
            category="Tables and studies",
            subcategory="{experiment}",
        ),
    log:
        f"{RESULTS}/logs/experiments/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/experiments/{{experiment}}.tsv"
    wildcard_constraints:
        experiment="[a-z_]+",
    localrule: True
    conda:
        "../../envs/t2ipal.yaml"
    params:
        config=lambda wildcards: canonical_json(CONFIG.model_dump(mode="json")),
    message:
        "table and figure of {wildcards.experiment}"
    shell:
        "t2ipal summary --config-json {params.config:q} --experiment {wildcards.experiment}"
        " --output {output.records:q} > {log:q} 2>&1"
