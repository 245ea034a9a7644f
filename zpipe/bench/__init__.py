"""Measure ways of carrying bytes on this machine; nothing here prints.

cells        what is measured: techniques, routes, sizes
textbook     what textbooks say of the techniques, and why a measurement differs
figures      samples, and what is made of several rounds of them
schedule     rounds within a bound of time: what is measured when, and what is left out
scratch      the files, in a folder that is gone at the end
forked       one measurement in a process of its own
ends         the two sides of a route, with those who read and write at the far side
carry        one transfer by a mover, or to several pipes
worker       one measurement: techniques and brokers
peers        one measurement: another program
noise        how quiet the machine was meanwhile
suites       all of it together
"""
