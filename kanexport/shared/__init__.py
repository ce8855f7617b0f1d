"""One voice for both programs: what `kanserve export` and the commands beside it have in common.

    voice       exit codes, the error document, the error text, text that is safe on a terminal
    program     the frame around a command: its errors, interruptions, a reader that leaves
    arguments   argparse with errors in our voice and help with misspelt flags
    nearest     "did you mean"
    output      JSON and text on stdout
    csvrows     rows of numbers from CSV
    csvtable    large CSV files as arrays, part by part (numpy, pyarrow)
    atomic      a file that appears whole or not at all
    tables      tables for people, on any width (rich)
    progress    progress bars (rich)
    installing  how a missing part is installed

All but those with rich or numpy need the standard library alone.
"""
