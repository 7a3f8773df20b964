use serde_json::json;

use super::page;

#[test]
fn a_page_of_nothing_is_a_page() {
    let html = page(&[]);
    assert!(html.starts_with("<!doctype html>") && html.contains("No records") && html.contains("Nothing is recorded"), "{html}");
    assert!(!html.contains("<script"), "{html}");
}
