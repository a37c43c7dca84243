"""
Run records, and how they get into MLflow.

A stage never talks to MLflow. The command line leaves one record of every executed stage (`run`,
`records`), and `sync` puts all of them into an MLflow store (`store`). `live` mirrors a long
training while it runs. Whatever is wrong with the store costs one line, never an exception or a
long wait. MLflow is imported only when needed.
"""
