"""What the study will cost, before it is run; common.smk checks that it fits the stated GPU."""


rule plan:
    """Tokens, FLOPs, memory, GPUs and time of every job of the default target."""
    output:
        "results/plan.txt",
    log:
        "logs/plan.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY),
        machine=machine_flags(),
        version=VERSIONS["plan"],
    message:
        "Planning"
    shell:
        "exec longrope --log {log:q} plan {params.machine:q} --out {output:q}"
        " --settings {params.settings:q}"
