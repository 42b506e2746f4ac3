//! Bytes as text: base64 in lines, and quoted-printable.

use base64::{Engine, engine::general_purpose::STANDARD};

const LINE: usize = 76;

/// Base64 in lines of 76 letters, each ended, as MIME has it.
pub(super) fn base64(bytes: &[u8]) -> String {
    let letters = STANDARD.encode(bytes);
    let mut text = String::with_capacity(letters.len() + letters.len() / LINE + 1);
    let mut rest = letters.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text
}

/// The bytes of a base64 text with or without line ends.
pub(super) fn unbase64(text: &str) -> Result<Vec<u8>, String> {
    let letters: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(letters).map_err(|error| format!("base64 expected: {error}"))
}

/// Quoted-printable without soft line ends. Line feeds stay; blanks do unless a line ends after them.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for (index, byte) in bytes.iter().enumerate() {
        let plain = match byte {
            b'=' => false,
            b' ' | b'\t' => !matches!(bytes.get(index + 1), None | Some(b'\n')),
            b'\n' | 0x21..=0x7e => true,
            _ => false,
        };
        if plain {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("={byte:02X}"));
        }
    }
    text
}

/// The bytes of a quoted-printable text, soft line ends included.
pub(super) fn unquoted(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'=' {
            bytes.push(*byte);
        } else if let Some(tail) = rest.strip_prefix(b"\n").or_else(|| rest.strip_prefix(b"\r\n")) {
            rest = tail;
        } else {
            let (code, tail) = rest.split_at_checked(2).ok_or("cut off after =")?;
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let (Some(high), Some(low)) = (digit(code[0]), digit(code[1])) else {
                return Err("two hexadecimal digits expected after =".to_owned());
            };
            bytes.push((high << 4 | low) as u8);
            rest = tail;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_76_letters_long() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"foo"), "Zm9v\n");
        assert_eq!(base64(&[0; 58]).lines().next().map(str::len), Some(76));
    }

    #[test]
    fn soft_line_ends_vanish() {
        assert_eq!(unquoted("=00a=\nb=3D").as_deref(), Ok(&b"\0ab="[..]));
        assert_eq!(quoted(b"\0a b \n\t=\r"), "=00a b=20\n\t=3D=0D");
        assert!(unquoted("a=0").is_err());
        assert!(unquoted("a=+1").is_err());
    }

    proptest! {
        #[test]
        fn text_leads_back(bytes: Vec<u8>) {
            prop_assert_eq!(unbase64(&base64(&bytes)), Ok(bytes.clone()));
            prop_assert_eq!(unquoted(&quoted(&bytes)), Ok(bytes));
        }
    }
}
