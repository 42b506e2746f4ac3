//! Terminals: ptys, termios, sessions and job control
