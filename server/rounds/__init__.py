"""The rounds of a run: who is asked, who is there, what is summed, what is kept so that a run goes on."""
