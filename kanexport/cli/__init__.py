"""The command `kanserve export`: its options, dispatch and output."""
