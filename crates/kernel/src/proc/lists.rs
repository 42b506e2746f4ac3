//! The files that hold just numbers.

use std::str::FromStr;

use crate::{ProcError, ProcResult};

/// A file of one number.
pub fn parse_number<T: FromStr>(file: &'static str, text: &str) -> ProcResult<T> {
    text.trim().parse().map_err(|_| ProcError::parse(file, "number", text))
}

/// A file of numbers with white space between (`children`, `NSpid:` of `status`).
pub fn parse_list<T: FromStr>(file: &'static str, text: &str) -> ProcResult<Vec<T>> {
    text.split_ascii_whitespace().map(|word| parse_number(file, word)).collect()
}

/// `auxv`, as the kernel gives it: pairs of type and value up to `AT_NULL`.
pub fn parse_auxv(bytes: &[u8]) -> ProcResult<Vec<(u64, u64)>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || words.len() % 2 != 0 {
        return Err(ProcError::parse("auxv", "pair", &format!("{} bytes", bytes.len())));
    }
    let pair = |pair: &[[u8; 8]]| (u64::from_ne_bytes(pair[0]), u64::from_ne_bytes(pair[1]));
    Ok(words.chunks_exact(2).map(pair).take_while(|&(kind, _)| kind != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number::<i32>("oom_score_adj", "-17\n").unwrap(), -17);
        assert!(parse_number::<u32>("loginuid", "-1\n").is_err());
        assert_eq!(parse_list::<i32>("children", "1 22 \n").unwrap(), [1, 22]);
        assert_eq!(parse_list::<i32>("children", "").unwrap(), []);
    }

    #[test]
    fn auxv_ends_at_null() {
        let words = [6u64, 4096, 0, 0, 3, 3];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(parse_auxv(&bytes).unwrap(), [(6, 4096)]);
        assert!(parse_auxv(&bytes[..12]).is_err());
        assert!(parse_auxv(&bytes[..8]).is_err());
    }
}
