//! The states of a TCP socket, and which ends of the stream were closed in each.

/// State of a TCP socket; the numbers are those of the kernel and of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // RFC 9293 explains them
#[repr(u8)]
pub enum State {
    Established = 1,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// The state of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == number)
    }

    /// Whether the peer has to be kept silent while the socket is away.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::TimeWait)
    }

    /// Whether our end of the stream was closed: a FIN is in the send queue, or was sent.
    pub(crate) fn fin_sent(self) -> bool {
        self.fin_sent_first() || matches!(self, Self::LastAck | Self::Closed)
    }

    /// Whether our end was closed before the peer's.
    pub(crate) fn fin_sent_first(self) -> bool {
        matches!(self, Self::FinWait1 | Self::FinWait2 | Self::Closing)
    }

    /// Whether the peer has acknowledged our FIN.
    pub(crate) fn fin_acknowledged(self) -> bool {
        matches!(self, Self::FinWait2 | Self::Closed)
    }

    /// Whether the peer's FIN came.
    pub(crate) fn fin_received(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing | Self::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(State::from_number(1), Some(State::Established));
        assert_eq!(State::from_number(8), Some(State::CloseWait));
        assert_eq!(State::from_number(11), Some(State::Closing));
        assert_eq!(State::from_number(0), None);
        assert_eq!(State::from_number(12), None);
    }
}
