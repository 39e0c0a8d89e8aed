"""Study and prevent reward hacking: a policy optimised on a proxy reward, and what it costs on the true one."""

__version__ = "0.1.0"
