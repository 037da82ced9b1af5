"""Every model on one simulated benchmark that anyone can make again; see the README beside this file."""
