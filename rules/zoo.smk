# Teachers: trained, copied or downloaded, checked, and described by a card.
BY_NAME = {teacher.name: teacher for teacher in teachers}


def teacher_card(wildcards):
    # A teacher that is trained depends on training settings and data; any other only on its manifest entry and file.
    trained = bool(BY_NAME[wildcards.teacher].train)
    keys = ["seed", "zoo.training"] if trained else []
    entry = as_tree(BY_NAME[wildcards.teacher])
    return card("teacher", "artifacts/zoo/{teacher}", *keys, computes=trained, teacher=lambda _: entry)(wildcards)


def teacher_files(wildcards):
    entry = BY_NAME[wildcards.teacher]
    if entry.train:
        return {"train": rules.images.output.train}
    if entry.file:
        return {"file": os.path.relpath(Path(workflow.basedir, settings.zoo.manifest).parent / entry.file)}
    return {}


rule teacher:
    message:
        "teacher {wildcards.teacher}"
    input:
        unpack(teacher_files),
        job=teacher_card,
    output:
        weights=update("artifacts/zoo/{teacher}/weights.safetensors"),
        card=update("artifacts/zoo/{teacher}/card.json"),
        provenance=update("artifacts/zoo/{teacher}/provenance.json"),
    params:
        files=arguments,
    log:
        "logs/teacher/{teacher}.log",
    resources:
        gpu=1,
    shell:
        STAGE


rule zoo:
    input:
        expand("artifacts/zoo/{teacher}/provenance.json", teacher=TEACHERS),
