"""What people see of the commands, and what they give them.

common        options and errors that commands share
remote        the connection of a command, its errors as text and exit code
read_rows     rows from .npy, .npz, .csv, .json, tables of columns or stdin
row_stream    the same rows, part by part
tables        Parquet, Arrow IPC and Feather
fit_rows      rows in the shape and type of a model's input
results       arrays into files and onto stdout
result_stream rows of outputs while the server computes them
inventory     what a server or a folder holds, one entry a version
model_table   those entries as a table
edge_facts    edge values as figures: strength, extremes, histogram
edge_table    those figures as a table or JSON
layers        a model layer by layer
shell         completion scripts
"""
