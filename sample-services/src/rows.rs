//! How structs and enums are read from columns, and the migrations of a service.
//!
//! sqlx derives all of this, with macros that compile SQLite a second time for the compiler's own use: two minutes of the
//! first build. These three do not.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A struct whose fields are named as the columns that they are read from.
macro_rules! read_from_row {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl<'row> sqlx::FromRow<'row, sqlx::sqlite::SqliteRow> for $name {
            fn from_row(row: &'row sqlx::sqlite::SqliteRow) -> sqlx::Result<Self> {
                Ok(Self { $($field: sqlx::Row::try_get(row, stringify!($field))?),+ })
            }
        }
    };
}
pub(crate) use read_from_row;

/// An enum that a column has by name.
macro_rules! stored_by_name {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl sqlx::Type<sqlx::Sqlite> for $name {
            fn type_info() -> sqlx::sqlite::SqliteTypeInfo {
                <str as sqlx::Type<sqlx::Sqlite>>::type_info()
            }

            fn compatible(column: &sqlx::sqlite::SqliteTypeInfo) -> bool {
                <str as sqlx::Type<sqlx::Sqlite>>::compatible(column)
            }
        }

        impl<'query> sqlx::Encode<'query, sqlx::Sqlite> for $name {
            fn encode_by_ref(
                &self,
                arguments: &mut <sqlx::Sqlite as sqlx::Database>::ArgumentBuffer,
            ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
                let text = match self {
                    $(Self::$variant => $text),+
                };
                <&str as sqlx::Encode<'query, sqlx::Sqlite>>::encode(text, arguments)
            }
        }

        impl<'row> sqlx::Decode<'row, sqlx::Sqlite> for $name {
            fn decode(value: sqlx::sqlite::SqliteValueRef<'row>) -> Result<Self, sqlx::error::BoxDynError> {
                match <&str as sqlx::Decode<'row, sqlx::Sqlite>>::decode(value)? {
                    $($text => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is not a value of {}", stringify!($name)).into()),
                }
            }
        }
    };
}
pub(crate) use stored_by_name;

/// The migrations of a service, in the order of their numbers: what the binary carries of `migrations/`.
pub(crate) fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(number, description, sql): &(i64, &'static str, &'static str)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(number, Cow::Borrowed(description), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}
