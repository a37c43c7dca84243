"""
Checkpoints: one of others brought in and checked (`import_model`, `architectures`, `tensors`,
`stated`), and what the project keeps of each (`checkpoint`, `loading`).
"""
